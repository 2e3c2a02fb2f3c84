"""Schemes that know the model, one family a module; `jaxinit.tree` lists them."""
