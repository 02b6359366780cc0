"""Words for the signs, units and abbreviations of English text, as tables that the normaliser's rules look up."""

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "USD": ("dollar", "dollars", "cent", "cents"),
    "GBP": ("pound", "pounds", "penny", "pence"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "JPY": ("yen", "yen", "", ""),
}
"""Sign or code of a currency to its singular and plural, and those of its hundredth (empty where there is none)."""

COUNTRIES = {
    "US": "u s ",
    "AU": "australian ",
    "A": "australian ",
    "CA": "canadian ",
    "C": "canadian ",
    "NZ": "new zealand ",
    "HK": "hong kong ",
}
SCALES = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion"}

REGULAR_UNITS = {
    "km": "kilometer",
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "μm": "micrometer",
    "nm": "nanometer",
    "mi": "mile",
    "yd": "yard",
    "lb": "pound",
    "lbs": "pound",
    "oz": "ounce",
    "kg": "kilogram",
    "g": "gram",
    "mg": "milligram",
    "μg": "microgram",
    "l": "liter",
    "L": "liter",
    "ml": "milliliter",
    "mL": "milliliter",
    "sec": "second",
    "ms": "millisecond",
    "μs": "microsecond",
    "min": "minute",
    "mins": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "W": "watt",
    "kW": "kilowatt",
    "MW": "megawatt",
    "kWh": "kilowatt hour",
    "V": "volt",
    "dB": "decibel",
    "kB": "kilobyte",
    "KB": "kilobyte",
    "MB": "megabyte",
    "GB": "gigabyte",
    "TB": "terabyte",
    "kcal": "kilocalorie",
}
UNITS = {symbol: (name, f"{name}s") for symbol, name in REGULAR_UNITS.items()} | {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"),
    "m/s": ("meter per second", "meters per second"),
    "rpm": ("revolution per minute", "revolutions per minute"),
    "kbps": ("kilobit per second", "kilobits per second"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "°C": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"),
    "°": ("degree", "degrees"),
    "ft": ("foot", "feet"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
}
POWERS = {"^2": "square ", "^3": "cubic "}

PHRASES = {
    r"&c\.?": "et cetera",
    r"e\. ?g\.": "for example",
    r"i\. ?e\.": "that is",
    r"vs\.?": "versus",
    r"approx\.": "approximately",
    r"cf\.": "compare",
    r"viz\.": "namely",
    r"a\.k\.a\.": "also known as",
    r"ph\.?d\.?": "p h d",
    r"w/o": "without",
    r"and/or": "and or",
    r"mr\.?": "mister",
    r"mrs\.?": "missus",
    r"ms\.": "miz",
    r"messrs\.": "messieurs",
    r"prof\.": "professor",
}
"""Pattern of an abbreviation, in any case, to its words."""

NAME_TITLES = {
    "capt": "captain",
    "cmdr": "commander",
    "col": "colonel",
    "dr": "doctor",
    "ft": "fort",
    "gen": "general",
    "gov": "governor",
    "hon": "honorable",
    "lt": "lieutenant",
    "maj": "major",
    "mt": "mount",
    "pres": "president",
    "rep": "representative",
    "rev": "reverend",
    "sen": "senator",
    "sgt": "sergeant",
    "st": "saint",
}
"""Abbreviations that are titles only before a name."""

SUFFIXES = {
    "etc": "et cetera",
    "jr": "junior",
    "sr": "senior",
    "esq": "esquire",
    "inc": "incorporated",
    "ltd": "limited",
    "corp": "corporation",
    "co": "company",
    "bros": "brothers",
    "dept": "department",
    "st": "street",
    "dr": "drive",
    "ave": "avenue",
    "blvd": "boulevard",
    "rd": "road",
}
"""Abbreviations whose full stop may end the sentence, too."""

BEFORE_NUMBER = {
    "no": "number",
    "nos": "numbers",
    "p": "page",
    "pp": "pages",
    "vol": "volume",
    "ch": "chapter",
    "fig": "figure",
    "figs": "figures",
    "sec": "section",
    "eq": "equation",
    "ca": "circa",
    "c": "circa",
}

# fmt: off
SPELLED = frozenset({
    "ABC", "AC", "AD", "AI", "AM", "AOL", "API", "ATM", "BCE", "CE", "CEO", "CFO", "CIA", "CIO", "CPU", "DIY", "DNA",
    "ECG", "EKG", "EPA", "ETA", "EU", "EUR", "FAQ", "FBI", "FDA", "GPU", "HIV", "IBM", "ICU", "ID", "IP", "IQ", "IRS",
    "MBA", "MRI", "NBA", "NSA", "OCD", "RNA", "SUV", "UAE", "UFO", "UI", "UK", "UN", "UPS", "URI", "URL", "US", "USA",
    "USB", "USD", "USSR", "VIP",
})
# fmt: on
"""Acronyms with a vowel that are spelled all the same. Those without one always are."""

COUNTED_NOUNS = frozenset(
    {"act", "book", "canto", "chapter", "part", "phase", "scene", "section", "type", "volume", "war"}
)
"""Nouns after which a Roman numeral is a number; after others, which are names, it is a rank."""

SYMBOLS = {
    "&": " and ",
    "@": " at ",
    "+": " plus ",
    "=": " equals ",
    "×": " times ",
    "÷": " divided by ",
    "±": " plus or minus ",
    "≈": " approximately ",
    "≤": " at most ",
    "≥": " at least ",
    "≠": " is not ",
    "%": " percent ",
    "‰": " per mille ",
    "°": " degrees ",
    "§": " section ",
    "$": " dollar ",
    "£": " pound ",
    "€": " euro ",
    "¥": " yen ",
    "₹": " rupee ",
    "¢": " cents ",
    "#": " hash ",
    "^": " to the power of ",
    "/": " slash ",
    "~": " about ",
}
WEB_SYMBOLS = {
    ".": " dot ",
    "@": " at ",
    "/": " slash ",
    "-": " dash ",
    "_": " underscore ",
    ":": " colon ",
    "?": " question mark ",
    "=": " equals ",
    "&": " and ",
    "#": " hash ",
    "%": " percent ",
    "+": " plus ",
    "~": " tilde ",
}
