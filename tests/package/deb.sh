#!/bin/sh
# deb.sh BUILD OUT LIBRARIES HEADER...: makes the Debian package of the build folder BUILD in OUT, and unpacks it into
# OUT/root. Fails unless it holds the headers and what finds them, and nothing else, and has no fault that lintian knows.
set -eu
build=$1 out=$2 libraries=$3
shift 3
rm -rf "$out"
mkdir -p "$out"
(cd "$out" && cpack --config "$build/CPackConfig.cmake" -G DEB -B "$out")
package=$(echo "$out"/libddl-dev_*_all.deb)
dpkg-deb -x "$package" "$out/root"

{
  for header in "$@"; do echo "./usr/include/ddl/${header##*/include/ddl/}"; done
  for library in $libraries; do echo "./usr/share/cmake/ddl/${library}Targets.cmake"; done
  for file in cmake/ddl/ddlConfig.cmake cmake/ddl/ddlConfigVersion.cmake pkgconfig/ddl.pc doc/libddl-dev/copyright \
    doc/libddl-dev/changelog.gz; do echo "./usr/share/$file"; done
} | LC_ALL=C sort >"$out/expected"
(cd "$out/root" && find . ! -type d) | LC_ALL=C sort >"$out/found"
diff "$out/expected" "$out/found"
! grep -rlF -e "$build" "$out/root" || { echo "the files above name the build folder"; exit 1; }

field() { [ "$(dpkg-deb -f "$package" "$1")" = "$2" ] || { echo "$1 is not $2:"; dpkg-deb -f "$package"; exit 1; }; }
field Architecture all
field Depends "libeigen3-dev (>= 3.4)"
field Recommends nlohmann-json3-dev
if command -v lintian >/dev/null; then
  lintian --fail-on error,warning "$package"
else
  echo "lintian is not installed: not checked"
fi
