from courier.loading import Loader


def manifest(parcels, limit):
    """One line a van: its number, the codes it carries, its load in grams."""
    loader = Loader(limit)
    for parcel in parcels:
        loader.add(parcel)
    loader.depart()
    lines = []
    for number, van in enumerate(loader.vans, start=1):
        codes = " ".join(parcel.code for parcel in van)
        lines.append(f"{number}: {codes} ({sum(parcel.grams for parcel in van)} g)")
    return lines
