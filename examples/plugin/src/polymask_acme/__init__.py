"""An example of a third party's package for polymask."""
