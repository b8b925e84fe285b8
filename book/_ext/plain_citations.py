"""Take roles out of the bibliography that its markup does not keep: a list without items, an entry's retired role."""

import re


def setup(app):
    """Register the removal."""
    app.connect("html-page-context", remove_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def remove_roles(app, pagename, templatename, context, doctree):
    """Drop the two roles from the page's body."""
    context["body"] = re.sub(r'(<div [^>]*?)\s*role="(?:list|doc-biblioentry)"', r"\1", context.get("body", ""))
