"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.order !== undefined) return Number(cell.dataset.order);
    return cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    // Numbers begin with the greatest, which most people look for.
    const first = head.classList.contains("number") && column > 0 ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    // Empty cells stay at the end.
    rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));
}

for (const figure of document.querySelectorAll("figure.chart")) {
  const readings = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot");
  if (!readings.length) { plot.removeAttribute("tabindex"); continue; }
  const readout = figure.querySelector(".readout");
  const area = figure.querySelector(".area");
  const cursor = figure.querySelector(".cursor");
  const spot = figure.querySelector(".spot");
  const alone = figure.dataset.mode === "near";
  let current = readings.length - 1;
  const show = (index) => {
    current = Math.max(0, Math.min(readings.length - 1, index));
    const [x, y, heading, values] = readings[current];
    const mark = alone ? spot : cursor;
    for (const one of [mark, readout]) one.removeAttribute("hidden");
    for (const name of alone ? ["cx"] : ["x1", "x2"]) mark.setAttribute(name, x + "%");
    if (alone) mark.setAttribute("cy", y + "%");
    const title = document.createElement("b");
    title.textContent = heading;
    const parts = values.map(([color, look, label, text]) => {
      const part = document.createElement("span");
      const dot = document.createElement("i");
      dot.className = "k" + color + " " + look;
      const number = document.createElement("b");
      number.textContent = text;
      const name = document.createElement("em");
      name.textContent = label + " ";
      part.append(dot, name, number);
      return part;
    });
    readout.replaceChildren(title, ...parts);
    const outer = figure.getBoundingClientRect(), inner = area.getBoundingClientRect();
    const left = inner.left - outer.left + inner.width * x / 100 - readout.offsetWidth / 2;
    readout.style.left = Math.max(0, Math.min(outer.width - readout.offsetWidth, left)) + "px";
    plot.setAttribute("aria-valuenow", current);
    plot.setAttribute("aria-valuetext", [heading, ...values.map(([, , label, text]) => label + " " + text)].join(", "));
  };
  const hide = () => { for (const one of [spot, cursor, readout]) one.setAttribute("hidden", ""); };
  const point = (event) => {
    const box = area.getBoundingClientRect();
    const left = (event.clientX - box.left), top = (event.clientY - box.top);
    const far = ([x, y]) => Math.hypot(x * box.width / 100 - left, y === null ? 0 : y * box.height / 100 - top);
    let best = 0;
    readings.forEach((one, index) => { if (far(one) < far(readings[best])) best = index; });
    show(best);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(current); });
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const moves = { ArrowLeft: current - 1, ArrowDown: current - 1, ArrowRight: current + 1, ArrowUp: current + 1,
      PageDown: current - 10, PageUp: current + 10, Home: 0, End: readings.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(moves[event.key]);
  });
}
