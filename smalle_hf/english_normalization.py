"""English as it is spoken: numbers, money, times, dates, units, abbreviations and web addresses in words.

The rules run in the order of `RULES`. Many only take a sign or an abbreviation apart from its number and leave the
number to the rules for numbers at the end. Every rule repeats a bounded number of times or starts at a bound place, so
that no text takes more than linear time.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

from num2words import num2words

from .english_vocabulary import (
    BEFORE_NUMBER,
    COUNTED_NOUNS,
    COUNTRIES,
    CURRENCIES,
    MONTHS,
    NAME_TITLES,
    PHRASES,
    POWERS,
    SCALES,
    SPELLED,
    SUFFIXES,
    SYMBOLS,
    UNITS,
    WEB_SYMBOLS,
)

Rule = Callable[[str], str]
Match = re.Match[str]

# A digit ends a word, too: it will be a word of its own.
LEFT = r"(?<![^\W\d_])"
RIGHT = r"(?![^\W\d_])"
WHOLE = r"(?<!\d)(?<!\d[.,])(?:\d{1,3}(?:,\d{3}){1,4}(?!,?\d)|\d{1,15}(?!\d))"
NUMBER = rf"{WHOLE}(?:\.\d{{1,15}}(?!\d))?"
MONTH = r"(?P<month>{}|S(?i:ept))(?![^\W\d_])\.?".format(
    "|".join(f"{month[0]}(?i:{month[1:]}|{month[1:3]})" for month in MONTHS)
)
DAY = r"(?P<day>[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
YEAR = r"(?P<year>[12]\d{3})(?![,.:/-]?\d)"
TOP_DOMAIN = r"com|org|net|edu|gov|io|co\.uk"
SIGN = r"[$£€¥₹]"
DIGITS = {str(digit): num2words(digit) for digit in range(10)}


def verbalize_addresses(text: str) -> str:
    """Writes e-mail and web addresses out in words.

    Args:
        text (`str`): Text in which underscores are kept.

    Returns:
        `str`: The text with " at ", " dot " and so on in the place of the signs of each address.
    """
    for rule in ADDRESS_RULES:
        text = rule(text)
    return text


def verbalize_english(text: str) -> str:
    """Writes an English text out in words.

    Args:
        text (`str`): Text with plain quotes and dashes, single spaces and the case it was written in, which tells
            titles and acronyms from words.

    Returns:
        `str`: The text without digits; case and spacing still need to be normalised.
    """
    # Acronyms do not stand out in a text that is all in capitals.
    capitals_only = " " in text and not any(map(str.islower, text))
    rules = [*ABBREVIATION_RULES, *SIGN_RULES]
    if re.search(r"\d", text):  # half of all rules, which most texts do not need
        rules = [*CONTEXT_RULES, *ABBREVIATION_RULES, *NUMBER_RULES, *SIGN_RULES]
    for rule in rules:
        if not (capitals_only and rule is SPELL_ACRONYMS):
            text = rule(text)
    return text


def _rule(pattern: str, words: str | Callable[[Match], str]) -> Rule:
    """Puts words, or a template for them, in the place of a pattern, set apart from letters and digits beside it."""
    compiled = re.compile(pattern)

    def replace(match: Match) -> str:
        before = match.start() > 0 and match.string[match.start() - 1].isalnum()
        after = match.end() < len(match.string) and match.string[match.end()].isalnum()
        spoken = match.expand(words) if isinstance(words, str) else words(match)
        return f"{' ' * before}{spoken}{' ' * after}"

    return partial(compiled.sub, replace)


def _lookup(pattern: str, table: dict[str, str]) -> Rule:
    """Puts the table's words in place of a pattern whose last group is a key of it."""
    return _rule(pattern, lambda match: table[str(match[match.lastindex or 0]).lower()])


def _any_of(table: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(table, key=len, reverse=True)))


def _digit_by_digit(number: str) -> str:
    return " ".join(DIGITS[digit] for digit in number if digit in DIGITS)


def _cardinal(number: str) -> str:
    """Reads `1,234,567` or `007`; numbers that begin with a zero are read digit by digit."""
    digits = number.replace(",", "")
    if len(digits) > 1 and digits.startswith("0"):
        return _digit_by_digit(digits)
    return num2words(int(digits)).replace(",", "")


def _number(number: str) -> str:
    whole, point, decimals = number.partition(".")
    return f"{_cardinal(whole)} point {_digit_by_digit(decimals)}" if point else _cardinal(whole)


def _year(number: str) -> str:
    return num2words(int(number), to="year").replace("oh-", "oh ")


def _whole(number: str) -> str:
    """Reads 1984 as a year, which four digits without a separator mostly are."""
    return _year(number) if re.fullmatch(r"1[1-9]\d\d|20\d\d", number) else _cardinal(number)


def _ordinal(number: str) -> str:
    return num2words(int(number.replace(",", "")), to="ordinal").replace(",", "")


def _plural(match: Match) -> str:
    words = _whole(match["number"])
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith("x") else f"{words}s"


def _fraction(match: Match) -> str:
    whole = f"{_cardinal(match['whole'])} " if match["whole"] else ""
    top, bottom = _cardinal(match["numerator"]), _cardinal(match["denominator"])
    numerator, denominator = int(match["numerator"]), int(match["denominator"])
    if numerator == denominator or (numerator, denominator) == (24, 7):
        return f"{whole}{top} {bottom}"
    if not 0 < numerator < denominator <= 100:
        return f"{whole}{top} over {bottom}"
    part = {2: "half", 4: "quarter"}.get(denominator) or num2words(denominator, to="ordinal")
    if numerator > 1:
        return f"{whole}{'and ' * bool(whole)}{top} {part}s"
    return f"{whole}and a {part}" if whole else f"one {part}"


def _money(match: Match) -> str:
    groups = match.groupdict()
    amount = match["amount"]
    singular, plural, hundredth, hundredths = CURRENCIES[match["sign"].upper()]
    country = COUNTRIES.get((groups.get("country") or "").upper(), "")
    scale = groups.get("scale") or SCALES.get((groups.get("short_scale") or "").lower())
    whole, _, decimals = amount.partition(".")
    if scale:
        return f"{_number(amount)} {scale} {country}{plural}"
    if len(decimals) != 2 or not hundredth:
        return f"{_number(amount)} {country}{singular if amount == '1' else plural}"
    major = f"{_cardinal(whole)} {country}{singular if whole == '1' else plural}"
    if decimals == "00":
        return major
    minor = f"{num2words(int(decimals))} {hundredth if decimals == '01' else hundredths}"
    return minor if whole == "0" else f"{major} and {minor}"


def _unit(match: Match) -> str:
    singular, plural = UNITS[match["unit"]]
    is_one = match["amount"] == "1" or match["joint"] == "-"
    return f"{match['amount']} {POWERS.get(match['power'], '')}{singular if is_one else plural}"


def _time(match: Match) -> str:
    hour, minute, second = int(match["hour"]), int(match["minute"]), match["second"]
    words = num2words(hour)
    if minute:
        words += f" oh {num2words(minute)}" if minute < 10 else f" {num2words(minute)}"
    elif match["meridiem"] is None:
        words += " o'clock" if hour <= 12 else " hundred"
    return f"{words} and {num2words(int(second))} seconds" if second else words


def _date_parts(match: Match) -> tuple[str, str, str]:
    """Month, day and year of a date in words, the year with the comma before it or empty."""
    month = next(name for name in MONTHS if name[:3].lower() == match["month"][:3].lower())
    return month, _ordinal(match["day"]), f", {_year(match['year'])}" if match["year"] else ""


def _month_first(match: Match) -> str:
    month, day, year = _date_parts(match)
    return f"{month} {day}{year}"


def _day_first(match: Match) -> str:
    month, day, year = _date_parts(match)
    return f"{match['article'] or 'the'} {day} of {month}{year}"


def _numeric_date(match: Match) -> str:
    """Reads 2021-03-12, 12.3.2021 and, where the month can come first, 3/12/2021."""
    groups = match.groupdict()
    if groups.get("month"):
        month, day = int(groups["month"]), int(groups["day"])
    else:
        month, day = int(groups["first"]), int(groups["second"])
        if month > 12 or groups["separator"] == ".":
            month, day = day, month
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{MONTHS[month - 1]} {_ordinal(str(day))}, {_year(groups['year'])}"


def _phone(match: Match) -> str:
    groups = ", ".join(map(_digit_by_digit, re.findall(r"\d+", match[0])))
    return f"plus {groups}" if match[0].startswith("+") else groups


def _web_address(match: Match) -> str:
    address = re.sub(r"(?i)^(?:https?://)?(?:www\.?)*", "", match[0])
    words = "".join(WEB_SYMBOLS.get(character, character) for character in address)
    return re.sub(r"\d+", lambda number: f" {_digit_by_digit(number[0])} ", words)


def _letters(match: Match) -> str:
    letters = " ".join(match[0].replace(".", ""))
    return f"{letters}." if match[0].endswith(".") and match.end() == len(match.string) else letters


def _suffix(match: Match) -> str:
    words = SUFFIXES[match[1].lower()]
    ends_sentence = match.end() == len(match.string) or (words == "et cetera" and match["capital"] is not None)
    return f"{words}." if ends_sentence else words


def _acronym(match: Match) -> str:
    acronym = match["acronym"]
    if acronym not in SPELLED and set(acronym) & set("AEIOUY"):
        return match[0]
    return " ".join(acronym) + "'s" * (match["plural"] is not None)


def _roman(match: Match) -> str:
    values = [{"I": 1, "V": 5, "X": 10}[digit] for digit in match["roman"]]
    pairs = zip(values, [*values[1:], 0], strict=True)
    number = sum(-value if value < following else value for value, following in pairs)
    if match["name"].lower() in COUNTED_NOUNS:
        return f"{match['name']} {num2words(number)}"
    return f"{match['name']} the {num2words(number, to='ordinal')}"


def _version(match: Match) -> str:
    return " point ".join(map(_cardinal, match[0].split(".")))


SPELL_ACRONYMS = _rule(rf"{LEFT}(?P<acronym>[A-Z]{{2,6}})(?P<plural>'?s)?{RIGHT}", _acronym)
ADDRESS_RULES = [
    _rule(rf"(?i){LEFT}(?:https?://|www\.)(?:[^\s\"']{{0,300}}[\w/])?", _web_address),
    _rule(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}", _web_address),
    _rule(
        rf"(?i)(?<![^\W_])(?<![.-])(?:[a-z0-9-]{{1,63}}\.){{1,3}}(?:{TOP_DOMAIN}){RIGHT}"
        r"(?:/[\w/.-]{0,200}\w)?",
        _web_address,
    ),
]
CONTEXT_RULES: list[Rule] = [
    _rule(r"(?<!\d)\d{1,3}(?: 000){1,4}(?!\d)", lambda match: match[0].replace(" ", "")),
    # Numbers that are read digit by digit
    _rule(r"(?<=\d)\.(?=\d{16})", " point "),
    _rule(r"\d{16,}", lambda match: _digit_by_digit(match[0])),
    _rule(r"(?<![\w+.-])(?:1-)?(?:\d{3}\.\d{3}\.\d{4}|(?:\d{3}(?:, |[ -]))?\d{3}-\d{4})(?![\d-])", _phone),
    _rule(r"\+\d{1,3}(?:[ -]\d{2,4}){2,4}(?!\d)", _phone),
    # Dates and times
    _rule(rf"(?:{LEFT}(?P<article>[Tt]he|THE) )?(?<![\d.,:/-]){DAY}(?: of)? {MONTH}(?:,? {YEAR})?", _day_first),
    _rule(rf"{LEFT}{MONTH} {DAY}(?![.:/-]?\d)(?:,? {YEAR})?", _month_first),
    _rule(r"(?<![\d-])(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)(?![\d-])", _numeric_date),
    _rule(
        r"(?<![\d/.])(?P<first>\d{1,2})(?P<separator>[/.])(?P<second>\d{1,2})(?P=separator)(?P<year>[12]\d{3})(?![\d/])",
        _numeric_date,
    ),
    _rule(r"(?<=\d)-(?=\d{1,2}:\d\d)|(?i:(?<=\d[ap]m)-(?=\d))", " to "),
    _rule(rf"(?i)(?<=\d) ?([ap])(?:\.m\.(?= ?\w|,)|\.?m{RIGHT})", r"\1 m"),
    _rule(r"(?<![\d.])(\d{1,2})\.([0-5]\d)(?= [aApP] [mM](?!\w))", r"\1:\2"),
    _rule(
        r"(?<![\d:.,])(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:])"
        r"(?P<meridiem>(?= [aApP] [mM](?!\w)))?",
        _time,
    ),
    # Money and units
    _rule(rf"(?<=[\d%])-(?={SIGN}\d)|(?<=%)-(?=\d)", " to "),
    _rule(rf"({SIGN}{NUMBER})-(?=\d)", r"\1 to "),
    _rule(rf"(?<![^\s,])-(?={SIGN} ?\d)", "minus "),
    _rule(
        rf"(?:{LEFT}(?P<country>{_any_of(COUNTRIES)}))?(?P<sign>{SIGN}) ?(?P<amount>{NUMBER})"
        r"(?i:[ -]?(?P<scale>hundred|thousand|million|billion|trillion)|(?P<short_scale>k|m|mn|bn|b))?(?![^\W\d_])",
        _money,
    ),
    _rule(rf"(?P<amount>{NUMBER}) ?(?P<sign>{SIGN}(?! ?\d)|(?:USD|GBP|EUR|JPY){RIGHT})", _money),
    _rule(rf"(?P<amount>{NUMBER})(?P<joint>[ -]?)(?P<unit>{_any_of(UNITS)})(?P<power>\^[23])?(?![\w^])", _unit),
    _rule(r"\^2(?!\d)", " squared"),
    _rule(r"\^3(?!\d)", " cubed"),
    # Abbreviations before numbers
    _rule(rf"(?i){LEFT}({_any_of(BEFORE_NUMBER)})\. ?(?=\d)", lambda match: BEFORE_NUMBER[match[1].lower()]),
    _rule(r"# ?(?=\d)", "number "),
]
"""Numbers that what stands beside them tells how to read. Like [`NUMBER_RULES`], these match digits only."""

ABBREVIATION_RULES: list[Rule] = [
    *(_rule(rf"(?i){LEFT}{pattern}(?:(?<=\.)|{RIGHT})", words) for pattern, words in PHRASES.items()),
    _rule(rf"{LEFT}(?P<name>[A-Z][a-zA-Z]{{2,20}}) (?P<roman>[IVX]{{2,6}})(?![^\W_])", _roman),
    _lookup(rf"{LEFT}(?=[A-Z])(?i:({_any_of(NAME_TITLES)}))\.(?= ?[A-Z])", NAME_TITLES),
    _lookup(rf"{LEFT}(?:(st|dr)\.(?= [a-zA-Z])|(?i:(st|dr))\.(?=[^\W_])|(D[rR])(?= [A-Z]))", NAME_TITLES),
    _rule(rf"(?i:{LEFT}({_any_of(SUFFIXES)}))\.(?!\w)(?P<capital>(?= [A-Z]))?", _suffix),
    SPELL_ACRONYMS,
    _rule(rf"{LEFT}[^\W\d_](?:\.[^\W\d_])+{RIGHT}\.?", _letters),
    _rule(rf"{LEFT}(?<!')([A-HJ-Z])\. (?=[A-Z])", r"\1 "),
]
NUMBER_RULES: list[Rule] = [
    _rule(r"(?<![\d/.,])(?:(?P<whole>\d{1,3}) )?(?P<numerator>\d{1,6})/(?P<denominator>\d{1,6})(?![\d/])", _fraction),
    _rule(rf"(?<!\d)'?(?P<number>\d{{1,15}})'?s{RIGHT}", _plural),
    _rule(rf"({WHOLE})(?i:st|nd|rd|th){RIGHT}", lambda match: _ordinal(match[1])),
    _rule(rf"(?<![\w-])({NUMBER})-(?=\d{{1,15}}(?![\d-]))", r"\1 to "),
    _rule(r"(?<![\w)])-(?=\.?\d)", "minus "),
    _rule(r"(?<=\w)-(?=\d)|(?<=\d)-(?=[^\W\d])", " "),
    _rule(r"(?<!\d)(?<!\d\.)\d{1,9}(?:\.\d{1,9}){2,9}(?!\d)", _version),
    _rule(r"(?<![\w.])\.(\d{1,15})(?![\d.])", lambda match: f"point {_digit_by_digit(match[1])}"),
    _rule(rf"{WHOLE}\.\d{{1,15}}(?!\d)", lambda match: _number(match[0])),
    _rule(r"(?<=\d):(?=\d)", " to "),
    _rule(WHOLE, lambda match: _whole(match[0])),
    _rule(r"\d+", lambda match: _digit_by_digit(match[0])),
]
SIGN_RULES: list[Rule] = [
    _rule("|".join(map(re.escape, SYMBOLS)), lambda match: SYMBOLS[match[0]]),
    _rule(rf"(?i)(?<=[\w-])\.({TOP_DOMAIN}){RIGHT}", r" dot \1"),
    _rule(rf"(?i){LEFT}www\.", "w w w dot "),
]

__all__ = ["verbalize_addresses", "verbalize_english"]
