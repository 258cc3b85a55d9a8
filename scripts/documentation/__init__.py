"""How the site of docs/ is built, what is checked of it, and how its pictures are made (`scripts/docs`)."""
