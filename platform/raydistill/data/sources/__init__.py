"""Where rows come from; one file a source, its name the file's."""
