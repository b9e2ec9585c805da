from folio.text import initial, plain


def register(names):
    """{heading: names} with headings and names in order, whatever the accents."""
    headings = {}
    for name in sorted(names, key=plain):
        headings.setdefault(initial(name), []).append(name)
    return headings


def page(names):
    """The register as printed: a heading line, then its names, each indented by two blanks."""
    lines = []
    for heading, members in register(names).items():
        lines.append(heading)
        lines.extend(f"  {name}" for name in members)
    return "\n".join(lines)
