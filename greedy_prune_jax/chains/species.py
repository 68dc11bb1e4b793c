"""Names of species behind the initial of a genus, which could be an option's letter: `E. coli`."""

import re

# Of genera from A to J in textbooks of biology and medicine; none is an option's own text.
_EPITHETS = """
  abortus aegypti aerogenes afarensis africanus albicans albopictus anamensis annuus anthracis auris
  batatas baumannii botulinum briggsae burgdorferi burnetii caballus capsulatum carcharias
  carolinensis catus cereus cinerea cloacae coli corrodens difficile diphtheriae discoideum
  domesticus ducreyi duodenalis elegans erectus ergaster faecalis faecium familiaris flavus
  floresiensis fragilis fumigatus gambiae glabrata graminearum granulosus habilis heidelbergensis
  henselae hepatica hirsutum histolytica hydrophila immitis impatiens influenzae intestinalis
  israelii jejuni lamblia licheniformis lumbricoides medinensis megaterium melanogaster melanoleuca
  mellifera mexicanum mori morhua musculus naledi napus neanderthalensis neoformans nidulans
  nucleatum oleracea oryzae oxysporum parvum perfringens pertussis pneumoniae pulex pylori
  radiodurans rapa reinhardtii rerio ricinus salinarum sapiens sativa sativus scapularis sediba
  simulans sinensis stephensi subtilis suzukii taurus terrestris tetani thaliana thuringiensis
  trachomatis tropicalis tularensis tumefaciens vaginalis vermicularis virilis vulgare vulgaris
"""
_ANY = re.sub(r"\s+", "|", _EPITHETS.strip())
SPECIES = re.compile(rf"\.\s{{0,4}}(?:{_ANY}|[a-z]{{4,20}}(?:ensis|ianus))(?![a-z])")
