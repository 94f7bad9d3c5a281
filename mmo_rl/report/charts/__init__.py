"""Charts of the report pages. Every function takes plain numbers and returns SVG that stands in a page as it is."""
