#!/bin/sh
# Tests of the playground in the current folder. Each ends with 77, which ctest takes as skipped, where a tool is missing.
#
#   run.sh browser SITE NATIVE                the page in headless Chromium, driven by playwright-core; NATIVE is native.cpp's program
#   run.sh program NATIVE "COMPILER FLAGS"    the C++ that the page shows prints the loss and accuracy that the page shows
top=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
skip() {
  echo "skipped: $1"
  exit 77
}
node --version 2>/dev/null | grep -Eq '^v(1[89]|[2-9][0-9])\.' || skip "no node of version 18 or newer (Debian: nodejs)"

case $1 in
browser)
  chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || skip "no Chromium (Debian: chromium)"
  command -v npm >/dev/null || skip "no npm (Debian: npm)"
  cp "$top/tests/site/package.json" "$top/tests/site/package-lock.json" .
  npm ci --prefer-offline --no-audit --no-fund >npm.log 2>&1 || { cat npm.log; skip "npm could not install playwright-core"; }
  exec node "$top/tests/site/browser.mjs" "$chromium" "$2" "$3"
  ;;
program)
  native=$2 compiler=$3 status=0
  compare() {  # DATA DEPTH WIDTH CHANNELS UPDATE LEARNING_RATE BATCH SEED STEPS
    settings=$(printf '{"data":"%s","depth":%s,"width":%s,"channels":%s,"update":"%s","learningRate":%s,"batch":%s,"seed":%s,"steps":%s}' "$@")
    node "$top/site/code.js" "$settings" >program.cpp && $compiler program.cpp -o program || { status=1; return; }
    printed=$(./program) expected=$($native "$@")
    echo "$settings: $printed"
    [ "$printed" = "$expected" ] || { echo "expected: $expected"; status=1; }
  }
  compare spirals 6 16 2 delta 0.003 32 1 500
  compare xor 2 8 1 additive 0.01 64 7 30
  own='{"data":"own","points":[-0.5,0.25,0.5,-0.25,0.1,1],"labels":[0,1,1],"depth":1,"width":4,"channels":1,"update":"write_only","learningRate":0.03,"batch":8,"seed":3,"steps":200}'
  node "$top/site/code.js" "$own" >program.cpp && $compiler program.cpp -o program || exit 1
  printed=$(./program)
  echo "own points: $printed"
  [ "${printed#*, }" = "100.0 % correct" ] || status=1
  exit $status
  ;;
esac
