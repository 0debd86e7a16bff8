# Doxygen's filter for headers. A header's second line, "@file  TEXT", becomes the two that Doxygen expects.
1d
2s|@file  |@file\
/// |
# "T a, b;  ///< text" is about a and b, so it becomes "/** text */ T a; /** text */ T b;".
s|^ *\([^ /].*, .*;\)  *///< \(.*\)$|/** \2 */ \1|
:split
s|\(/\*\* [^*]* \*/\) \([^*]*[A-Za-z0-9_>]\) \([A-Za-z0-9_]*\)\( = [^,;<]*\)*, \([^*]*;\)$|\1 \2 \3\4; \1 \2 \5|
t split
# Describes the members that have one meaning in every class, on the line where they are declared.
s|^ *using Scalar = .*;$|/** The type of the numbers. */ &|
s|^ *using AccumScalar = .*;$|/** The type in which sums are computed. */ &|
s|^ *using Settings = .*;$|/** What the constructor is given. */ &|
s|^ *using Input = .*;$|/** A batch that forward reads. */ &|
s|^ *using Output = .*;$|/** A batch that forward has written, when backward reads it. */ &|
s|^ *static constexpr PartKind kind = .*;$|/** What the part is for in a block. */ &|
s|^ *static constexpr auto parameters() {|/** The parameters and their names: see core/parameters.hpp. */ &|
s|^ *[A-Z][A-Za-z]*() = default;$|/** Without parameters: to be assigned to. */ &|
s|^ *typename .*Tape\(<Tokens>\)* [a-z_]*;$|/** The tape of the part of this name. */ &|
s|^ *StateOf<.*> [a-z_]*;$|/** The state of the part of this name. */ &|
