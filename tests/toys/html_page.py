"""A page of HTML as tests read it."""

from html.parser import HTMLParser

_EMPTY = {"meta", "link", "br", "img", "input"}


class HtmlPage(HTMLParser):
    """Texts, tables and addresses of a page; ``unclosed`` are elements that nothing ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.orders: list[list[list[str | None]]] = []
        self.captions: list[str] = []
        self.titles: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(text)
        self.close()
        self.unclosed = [tag for tag in self._open if tag not in _EMPTY]
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.addresses += [given[key] or "" for key in ("href", "src", "srcset", "action", "data") if key in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "table":
            self.tables.append([])
            self.orders.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.orders[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.orders[-1][-1].append(given.get("data-order"))
        elif tag in ("caption", "h2"):
            (self.captions if tag == "caption" else self.titles).append("")
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1:] == [tag], f"</{tag}> ends {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag in ("script", "style") for tag in self._open):
            return
        self._words.append(data)
        if any(tag in ("td", "th") for tag in self._open):
            self.tables[-1][-1][-1] += data
        elif "caption" in self._open:
            self.captions[-1] += data
        elif "h2" in self._open:
            self.titles[-1] += data
