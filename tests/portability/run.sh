#!/bin/sh
# run.sh "COMPILER FLAGS" EMULATOR TEST... compiles tests (named as in op/direction) in the current folder, two at a
# time, and runs them under EMULATOR ("" for none). Ends with 77, which ctest takes as skipped, where a tool is missing.
compiler=$1 emulator=$2
shift 2
top=$(cd "$(dirname "$0")/../.." && pwd) || exit 1

if ! echo '#include <cstddef>' | $compiler -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; then
  echo "skipped: no working '$compiler'"
  exit 77
fi
if [ -n "$emulator" ] && ! command -v "${emulator%% *}" >/dev/null; then
  echo "skipped: no ${emulator%% *}"
  exit 77
fi

export compiler top
printf '%s\n' support/main "$@" | xargs -P 2 -I TEST sh -c '
test=TEST; [ $test = support/main ] || test=$test.test
$compiler -std=c++20 -O1 -I "$top/include" -I "$top/tests" -c "$top/tests/$test.cpp" -o "$(echo TEST | tr / _).o"' || exit 1

status=0
for test in "$@"; do
  program=$(echo "$test" | tr / _)
  echo "== $test"
  $compiler support_main.o "$program.o" -o "$program" -pthread && $emulator "./$program" --warn NoAssertions || status=1
done
exit $status
