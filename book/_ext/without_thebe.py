"""Take thebe out of every page: Jupyter Book adds it even when live code is off, twice, with the address of a CDN."""

from docutils import nodes


def setup(app):
    """Register the two removals after sphinx-thebe's own steps."""
    app.connect("html-page-context", remove_scripts, priority=900)
    app.connect("doctree-resolved", remove_nodes, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def remove_scripts(app, pagename, templatename, context, doctree):
    """Drop thebe's scripts from the page's head."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(script) + str(getattr(script, "attributes", {}).get("body", ""))
    ]


def remove_nodes(app, doctree, docname):
    """Drop thebe's configuration from the page's body."""
    for node in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in node.astext() or node.astext().startswith("<script>kernelName"):
            node.parent.remove(node)
