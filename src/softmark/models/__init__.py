"""Networks, their files, and what each party may ask of them."""
