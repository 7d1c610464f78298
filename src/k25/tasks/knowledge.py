"""Facts: chemical elements and capitals, each from an exact table."""

from random import Random

from k25.tasks.exercise import Exercise, phrased, text_task
from k25.tasks.scoring import exact, same_number, same_words

# In the order of their atomic numbers, from 1 (IUPAC names and symbols).
ELEMENTS = (
    "hydrogen H, helium He, lithium Li, beryllium Be, boron B, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne, "
    "sodium Na, magnesium Mg, aluminium Al, silicon Si, phosphorus P, sulfur S, chlorine Cl, argon Ar, potassium K, "
    "calcium Ca, scandium Sc, titanium Ti, vanadium V, chromium Cr, manganese Mn, iron Fe, cobalt Co, nickel Ni, "
    "copper Cu, zinc Zn, gallium Ga, germanium Ge, arsenic As, selenium Se, bromine Br, krypton Kr, rubidium Rb, "
    "strontium Sr, yttrium Y, zirconium Zr, niobium Nb, molybdenum Mo, technetium Tc, ruthenium Ru, rhodium Rh, "
    "palladium Pd, silver Ag, cadmium Cd, indium In, tin Sn"
)
CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, Egypt Cairo, Greece Athens, Norway Oslo, "
    "Peru Lima, Cuba Havana, Kenya Nairobi, Portugal Lisbon, Austria Vienna, Poland Warsaw, Canada Ottawa, "
    "China Beijing, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Hungary Budapest, "
    "Iceland Reykjavik, Belgium Brussels, Thailand Bangkok, Chile Santiago, Turkey Ankara, Australia Canberra, "
    "Vietnam Hanoi, Jordan Amman, Nepal Kathmandu, Ghana Accra, Senegal Dakar, Qatar Doha, Iran Tehran, Iraq Baghdad, "
    "Croatia Zagreb, Bulgaria Sofia, Romania Bucharest, Serbia Belgrade, Latvia Riga, Estonia Tallinn, "
    "Lithuania Vilnius, Uruguay Montevideo, Venezuela Caracas, Ecuador Quito, Colombia Bogota, Cambodia Phnom-Penh, "
    "Mongolia Ulaanbaatar, Morocco Rabat, Tunisia Tunis, Algeria Algiers, Ethiopia Addis-Ababa"
)


def _pairs(table: str) -> list[tuple[str, str]]:
    """The table's pairs; a hyphen stands for a space inside a name."""
    pairs = (entry.replace("-", "\t").split(" ") for entry in table.split(", "))
    return [(first.replace("\t", " "), second.replace("\t", " ")) for first, second in pairs]


_ELEMENTS, _CAPITALS = _pairs(ELEMENTS), _pairs(CAPITALS)


@text_task("element-symbol", domain="knowledge", hardest=5, check=exact)
def element_symbol(numbers: Random, difficulty: int) -> Exercise:
    """The first 10 x difficulty elements."""
    name, symbol = numbers.choice(_ELEMENTS[: 10 * difficulty])
    return Exercise(
        phrased(numbers, difficulty, f"symbol of {name}?", f"What is the chemical symbol of {name}?"), symbol
    )


@text_task("element-number", domain="knowledge", hardest=5, check=same_number)
def element_number(numbers: Random, difficulty: int) -> Exercise:
    """The first 10 x difficulty elements."""
    number = numbers.randrange(len(_ELEMENTS[: 10 * difficulty]))
    name = _ELEMENTS[number][0]
    prompt = phrased(numbers, difficulty, f"atomic number of {name}?", f"How many protons has an atom of {name}?")
    return Exercise(prompt, str(number + 1))


@text_task("capital", domain="knowledge", hardest=5, check=same_words)
def capital(numbers: Random, difficulty: int) -> Exercise:
    """The first 10 x difficulty countries; from 4 on also the country of a capital."""
    country, city = numbers.choice(_CAPITALS[: 10 * difficulty])
    if difficulty >= 4 and numbers.random() < 0.5:
        prompt = phrased(numbers, difficulty, f"{city} is the capital of?", f"Of which country is {city} the capital?")
        return Exercise(prompt, country)
    return Exercise(phrased(numbers, difficulty, f"capital of {country}?", f"Which city is {country}'s capital?"), city)


TASKS = [element_symbol, element_number, capital]
