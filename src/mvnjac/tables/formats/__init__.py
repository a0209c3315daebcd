"""The built-in table formats, one module each, which defines a `TableFormat` named `FORMAT`; they are found automatically."""
