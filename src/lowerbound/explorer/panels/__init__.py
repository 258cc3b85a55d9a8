"""The panels of the page, found by their files: one Python file here, one of the same name in `static/panels/`."""
