import unicodedata


def plain(text):
    """Text in lower case and without accents, for comparing: "Élan" -> "elan"."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(char for char in parts if not unicodedata.combining(char)).casefold()


def initial(name):
    """The heading for a name: a capital letter, or "#" for names that start otherwise."""
    first = plain(name.strip())[:1].upper()
    return first if first.isalpha() else "#"
