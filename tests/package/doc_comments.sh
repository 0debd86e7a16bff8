#!/bin/sh
# doc_comments.sh COMPILER OPTION..: compiles the examples in the headers' doc comments, from the project's folder. An
# example is a paragraph of indented lines with "ddl::" in it; doc_comments.hpp declares the names that it does not.
set -e
examples=$(awk '
  function end_example() {
    if (example ~ /ddl::/) printf "void example%d() {\n%s}\n", ++count, example
    example = ""
  }
  /^ *\/\/\/     / { sub(/^ *\/\/\/     /, ""); example = example "#line " FNR " \"" FILENAME "\"\n" $0 "\n"; next }
  { end_example() }' include/ddl/[!m]*/*.hpp include/ddl/model/*.hpp)
[ "$(printf '%s\n' "$examples" | grep -c '^void example')" -ge 15 ] || { echo "examples are missing"; exit 1; }
printf '%s\n' "$examples" | "$@" -fsyntax-only -include tests/package/doc_comments.hpp -x c++ -
