# Doxygen's filter for Markdown: gives headings the names that GitHub gives them, and turns links into Doxygen's.
/^###* /{
  h
  s/^#* //
  y/ABCDEFGHIJKLMNOPQRSTUVWXYZ /abcdefghijklmnopqrstuvwxyz-/
  s/[^a-z0-9-]//g
  s/.*/ {#to-&}/
  H
  x
  s/\n//
}
s|^\[\(!\[.*\](.*)\)\](.*)$|\1|
s|](\.\./|](|g
s|!\[\(.*\)\](docs/|![\1](|
s|]([a-z_/]*\.md#\([a-z0-9-]*\))|](@ref to-\1)|g
s|](examples/\([a-z_]*\)\.\([a-z]*\))|](\1_8\2-example.html)|g
s|](include/ddl/\([a-z]*\)/*)|](@ref include/ddl/\1)|g
s|](include/ddl/\([a-z_/]*\.hpp\))|](@ref ddl/\1)|g
