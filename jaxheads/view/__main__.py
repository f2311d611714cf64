"""Write the bundle of JavaScript: `python -m jaxheads.view`."""

from .bundle import main

main()
