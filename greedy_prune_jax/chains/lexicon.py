"""Words that carry a category of their own, as base forms; `is_listed` tries the regular endings.

General vocabulary of school mathematics and science; nouns and adjectives that are not here are
left to the part-of-speech tagger. The lists were grown on chains that are not among the
hand-labelled ones (`tests/helpers/hand_labels.json`), which the same person labelled before.
"""

import functools


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


NUMBER_WORDS = _words("""
  zero first last one two three four five six seven eight nine ten eleven twelve thirteen fourteen
  fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty
  ninety hundred thousand million billion trillion dozen half quarter third fourth fifth sixth
  seventh eighth ninth tenth once twice thrice double triple quadruple single pair couple
""")

QUANTIFIERS = _words("""
  each every both all many much few several some any none more less fewer most least enough per
  than over under above below only another remaining rest whole entire extra additional further
  apiece altogether together combined total equal equivalent exact exactly approximately about
  almost nearly average maximum minimum larger smaller greater higher lower bigger longer shorter
  older younger faster slower farther highest lowest largest smallest greatest up
""")

UNITS = _words("""
  second minute hour day week month year decade century morning night daily weekly monthly yearly
  annually dollar cent penny nickel dime euro pound ounce gram kilogram ton tonne meter metre
  centimeter kilometer millimeter mile foot feet inch yard acre liter litre gallon quart pint cup
  degree radian watt joule newton volt ampere ohm hertz mole kelvin celsius fahrenheit percent bit
  byte kilobyte megabyte gigabyte horsepower calorie pascal coulomb farad tesla atmosphere
  kilometre milliliter kilowatt electronvolt
""")

QUANTITIES = _words("""
  number amount quantity value sum difference product quotient ratio fraction proportion rate
  percentage probability odds speed velocity acceleration displacement distance length width
  height depth thickness radius diameter circumference perimeter area volume mass weight density
  force pressure temperature energy work power heat time age price cost profit loss revenue income
  salary wage payment tax interest discount fee debt balance budget expense saving earning count
  size scale square cube root exponent logarithm log derivative integral limit function equation
  formula variable constant coefficient factor multiple term sequence series matrix vector
  determinant angle slope gradient sine cosine tangent mean median mode variance deviation error
  maximum minimum frequency wavelength amplitude period current voltage resistance capacitance
  inductance charge momentum torque moment stress strain concentration capacity entropy enthalpy
  elasticity supply demand gdp npv present future net gross order dimension inequality remainder
  digit integer decimal point set element graph curve line unit measure dose share portion part
  level degree increase decrease reduction growth change gain score times
""")

OPERATIONS = _words("""
  add subtract multiply divide sum total average double triple halve square cube integrate
  differentiate compute calculate evaluate simplify factor expand equal exceed increase decrease
  reduce raise lower grow shrink gain lose earn spend cost pay save owe charge weigh measure count
  combine split share remain leave convert round plus minus times over divided modulo solve
  substitute plug accelerate approach vary range
""")

# Words that talk about the reasoning wherever they stand.
META = _words("""
  therefore thus hence consequently accordingly however moreover furthermore additionally finally
  lastly next firstly secondly thirdly because since so let let's suppose assume assuming consider
  note notice recall remember observe conclude conclusion deduce infer follow imply determine find
  know given refer reason reasoning explain answer question problem solution option choice
  statement step true false correct incorrect wrong right example namely i.e e.g clearly obviously
  we us our i me my you your we're we've we'll you're i'm maybe perhaps actually wait okay ok yes
  wikipedia article articles help otherwise instead likewise similarly case need want try see
""")

# Words that talk about the reasoning where they begin a sentence or a clause.
META_WHEN_FIRST = _words("first second third then now also meaning")

COREFERENCE = _words("""
  he she it they him her them his hers its their theirs himself herself itself themselves this
  these those it's he's she's they're they've they'll he'll she'll former latter
""")

# Written units that stand after a number or beside a slash.
UNIT_SYMBOLS = _words("""
  kg mg g m cm mm km nm ft in lb lbs oz mi mph kph hr hrs h s sec min ms btu hz khz mhz ghz j kj
  cal kcal w kw kwh hp v mv a ma n kn pa kpa mpa atm psi bar mol k f c l ml gal rad deg ev rpm db
  usd ohm mh uf nf pf t
""")

# What is told apart by a letter, as in `object A`.
NAMED_BY_LETTERS = _words("""
  option object point choice statement answer group team item person company case plan type class
  player car train line angle side box bag school city town factory store product
""")

FUNCTION = _words("""
  a an the of to in on at by for with from as is are was were be been being am has have had do
  does did can could will would shall should may might must not and or but nor if then when while
  where which who whom whose what that there here into onto off out through between among during
  before after against without within upon too very able just also even still yet again such same
  own other how why until unless though although don't doesn't didn't isn't aren't wasn't can't
  couldn't won't wouldn't there's that's who's get gets got make makes made take takes took go
  goes went come give gives gave use uses used using
""")


@functools.cache
def is_listed(word: str, base_forms: frozenset[str]) -> bool:
  """Tells whether a lower-case word is one of `base_forms` or a regular inflection of one."""
  if word in base_forms:
    return True
  stems = []
  for ending, replacements in (
    ("'s", ("",)),
    ("ies", ("y",)),
    ("es", ("", "e")),
    ("s", ("",)),
    ("ied", ("y",)),
    ("ed", ("", "e")),
    ("ing", ("", "e")),
  ):
    if word.endswith(ending) and len(word) - len(ending) > 1:
      stem = word.removesuffix(ending)
      stems += [stem + replacement for replacement in replacements]
      if len(stem) > 2 and stem[-1] == stem[-2]:
        stems.append(stem[:-1])  # plugging
  return any(stem in base_forms for stem in stems)
