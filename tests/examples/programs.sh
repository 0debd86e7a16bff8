#!/usr/bin/env bash
# programs.sh BIN CASE: what the programs in the folder BIN do where things go wrong. Runs the function of this name in a
# folder of its own, and fails where a check does. Run by ctest, label example.
set -u -m  # with job control, background jobs do not ignore SIGINT
bin=$(cd "$1" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

fail() {
  echo "FAILED: $*"
  [ -f out ] && { echo "--- standard output"; tail -n 20 out; }
  [ -f err ] && { echo "--- standard error"; tail -n 20 err; }
  exit 1
}
# expect STATUS COMMAND...: runs it, its output in the files out and err.
expect() {
  local wanted=$1 status
  shift
  "$@" >out 2>err
  status=$?
  [ "$status" = "$wanted" ] || fail "status $status, expected $wanted: $*"
}
says() { grep -qF -- "$2" "$1" || fail "no \"$2\" in $1"; }
silent() { ! grep -qF -- "$2" "$1" || fail "\"$2\" in $1"; }
# A small run: 25 steps an epoch.
small=("$bin/train_classifier" --width 8 --depth 2 --hidden 16 --batch 80 --threads 1)
train() { "${small[@]}" "$@"; }
train_lm() { "$bin/train_lm" --steps 4 --layers 1 --width 16 --heads 2 --context 16 --threads 1 --sample 0 "$@"; }
wait_for() { for _ in $(seq 4000); do [ -s "$1" ] && return; sleep 0.1; done; fail "$1 never came"; }
newest() { find "$1" -name 'checkpoint-*.safetensors' | sort | tail -n 1; }
# Turns over a byte of the last tensor.
damage() { printf '\xff\x01\xff' | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 9)) conv=notrunc 2>dd || fail "dd"; }

signals() {
  for signal in TERM INT; do
    rm -rf c log
    "${small[@]}" --epochs 100000 --checkpoint c --json log >out 2>err &
    wait_for log
    until [ "$(wc -l <log)" -gt 2 ]; do sleep 0.1; done
    kill -$signal $!
    wait $!
    status=$?
    [ $status = $((128 + $(kill -l $signal))) ] || fail "status $status after SIG$signal"
    says err "stopped by a signal after step "
    [ -n "$(newest c/seed-0)" ] || fail "nothing was saved"
    expect 0 train --epochs 100000 --checkpoint c --resume --time-limit 0.1
    says out "seed 0 goes on from step "
  done
}
full_disk() {
  [ -c /dev/full ] || return 0
  train_lm --checkpoint lm >out 2>err || fail "train_lm"
  "$bin/sample" lm --tokens 5 >/dev/full 2>err && fail "sample > /dev/full succeeded"
  says err "sample: cannot write to standard output"
  train --epochs 1 --checkpoint c --json /dev/full >/dev/full 2>err
  [ $? = 1 ] || fail "the status of train_classifier > /dev/full"
  says err "warning: /dev/full: cannot write"
  says err "train_classifier: cannot write to standard output"
  [ -n "$(newest c/seed-0)" ] || fail "nothing was saved"
  expect 0 train --epochs 1 --json /dev/full # a log is not worth a run
  says err "the log ends here"
}
closed_streams() {
  train --epochs 1 --json log --checkpoint c >&- 2>&- && fail "a closed standard output went unnoticed"
  [ "$(grep -c '^{.*}$' log)" = "$(wc -l <log)" ] || fail "text among the JSON"
  [ "$(wc -l <log)" -gt 2 ] || fail "no log"
  [ -n "$(newest c/seed-0)" ] || fail "nothing was saved"
  { train --epochs 4 --checkpoint d 2>err; echo $? >status; } | head -n 1 >out
  wait_for status
  [ "$(newest d/seed-0)" = "d/seed-0/checkpoint-000000100.safetensors" ] || fail "a closed pipe ended the run"
}
folders() {
  expect 0 train --epochs 1 --checkpoint c
  expect 1 train --epochs 1 --checkpoint c
  says err "holds checkpoints of an earlier run"
  silent out "parameters"
  "${small[@]}" --epochs 100000 --checkpoint d --json log >/dev/null 2>&1 &
  wait_for log
  expect 1 train --epochs 100000 --checkpoint d --resume
  says err "d/seed-0/lock: is locked"
  kill -KILL $!
  wait $!
  expect 0 train --epochs 100000 --checkpoint d --resume --time-limit 0.1
  echo text >file
  for options in "--checkpoint file/c" "--json no/log" "--json ."; do
    expect 1 train --epochs 1 $options
    silent out "parameters"
  done
  mkdir images # 2 of 2 x 2 pixels to train on, 1 of 3 x 3 to test on
  printf '\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02abcdefgh' >images/train-images-idx3-ubyte
  printf '\0\0\x08\x01\0\0\0\x02\0\x01' >images/train-labels-idx1-ubyte
  printf '\0\0\x08\x03\0\0\0\x01\0\0\0\x03\0\0\0\x03abcdefghi' >images/t10k-images-idx3-ubyte
  printf '\0\0\x08\x01\0\0\0\x01\0' >images/t10k-labels-idx1-ubyte
  expect 1 train --epochs 1 --data images
  says err "images: its test samples have 9 inputs, expected 4 as the training samples"
  mkdir empty
  expect 1 "$bin/audit_gates" empty
  says err "empty: holds no checkpoint"
  expect 1 "$bin/audit_gates" c/seed-0 --output no/such/folder
  says err "no/such/folder.json: "
}
numbers() {
  expect 0 train --epochs 01 --shift 010 --json log
  says log '"epochs":1,'
  says log '"shift":10,'
  for number in 99999999999999999999 0 -1 0x10 1.5 1e3 "" " 3" 3x; do
    expect 105 train --epochs "$number"
    says err "--epochs: is $number, expected a whole number from 1 to 2147483647"
  done
  for number in 0 -1 nan inf 1e999 0x1p3 1,5; do
    expect 105 train --learning-rate "$number"
    says err "--learning-rate: is $number, expected a number above 0"
  done
  printf 'caf\xe9 %s' $(seq 500) >words.txt
  expect 1 train_lm --text words.txt --tokens characters
  says err "train_lm: words.txt: byte 3 is 233, expected UTF-8"
  expect 105 train --data $'caf\xe9.csv'
  says err "is not in UTF-8"
}
memory() {
  (ulimit -v 2000000 && "$bin/train_classifier" --width 8 --hidden 100000000 --threads 1 >out 2>err) && fail "it fitted"
  says err "there is not enough memory: --hidden 100000000 takes about "
  expect 1 "$bin/train_classifier" --batch 2147483647 --depth 2147483647
  says err "there is not enough memory: --depth 2147483647 takes about "
  expect 1 "$bin/train_lm" --width 2147483646
  says err "there is not enough memory: --width 2147483646 takes about "
}
resume() {
  expect 0 train --epochs 2 --checkpoint c --checkpoint-every 25
  expect 1 "$bin/train_classifier" --width 8 --depth 2 --hidden 17 --batch 32 --epochs 2 --checkpoint c --resume
  says err "was trained with other settings: batch is 32, expected 80; hidden is 17, expected 16"
  expect 0 train --epochs 3 --checkpoint c --checkpoint-every 25 --resume
  says out "seed 0 goes on from step 50"
  says out "planned for 50 steps, now for 75"
  expect 1 train --epochs 2 --checkpoint c --resume
  says err "--epochs asks for 50 steps, and 75 are made"
  damage c/seed-0/checkpoint-000000075.safetensors
  for command in "train --epochs 3 --checkpoint c --resume" "$bin/audit_gates c/seed-0"; do
    expect 1 $command
    says err "c/seed-0/checkpoint-000000075.safetensors: "
    says err "the newest whole checkpoint before it is c/seed-0/checkpoint-000000050.safetensors"
  done
  expect 1 train --epochs 3 --checkpoint c --resume
  says err "go on from that by --resume c/seed-0/checkpoint-000000050.safetensors"
  expect 0 train --epochs 3 --checkpoint c --resume c/seed-0/checkpoint-000000050.safetensors
  says out "seed 0 goes on from step 50"
  expect 0 "$bin/audit_gates" c/seed-0
  says out "checkpoint-000000075.safetensors"
  expect 1 train --epochs 3 --checkpoint c --resume c/seed-1/checkpoint-000000050.safetensors
  says err "is in none of the folders"
}
content() {
  { echo a,b,class; for i in $(seq 400); do echo "$i,$((i * i % 7)),$([ $((i % 2)) = 0 ] && echo even || echo odd)"; done; } >data.csv
  expect 0 train --epochs 1 --data data.csv --checkpoint c
  mkdir moved && mv data.csv moved/other.csv
  expect 0 train --epochs 2 --data moved/other.csv --checkpoint c --resume
  expect 1 "$bin/audit_gates" c/seed-0 --data nowhere.csv
  expect 0 "$bin/audit_gates" c/seed-0
  sed -i 's/^7,/8,/' moved/other.csv
  expect 1 train --epochs 3 --data moved/other.csv --checkpoint c --resume
  says err "data_hash is "
  expect 1 "$bin/audit_gates" c/seed-0
  says err "moved/other.csv: has changed since the net was trained"
  expect 0 "$bin/audit_gates" c/seed-0 --data moved/other.csv
  sed -i 's/even/green/' moved/other.csv
  expect 1 "$bin/audit_gates" c/seed-0 --data moved/other.csv
  says err "the net was not trained on the class \"green\""
}
shards() {
  local run="$bin/train_classifier --width 8 --depth 2 --hidden 16 --batch 80 --epochs 2 --shards 4"
  expect 0 $run --threads 1 --checkpoint one
  expect 0 $run --threads 3 --checkpoint three
  cmp one/seed-0/checkpoint-000000050.safetensors three/seed-0/checkpoint-000000050.safetensors || fail "threads change the bits"
  expect 1 train --epochs 3 --checkpoint one --resume --shards 2
  says err "shards is 2, expected 4"
  expect 1 train --epochs 1 --shards 81
  says err "shards is 81, expected 1 to 80, the size of a batch"
  run="$bin/learn_dynamics --steps 20 --seeds 2 --horizon 10 --shards 3"
  expect 0 $run --threads 1 --output one
  expect 0 $run --threads 4 --output four
  cmp one.csv four.csv || fail "threads change the results of learn_dynamics"
  says one.json '"shards": 3'
  if command -v gnuplot >/dev/null; then
    says out "picture: four.svg, four.png"
    [ -s four.svg ] && [ -s four.png ] || fail "no picture"
  else
    says out "to draw it: gnuplot "
  fi
  run="$bin/track_states --steps 4 --width 16 --heads 2 --length 8 --test-length 16 --seeds 1 --beta 2"
  expect 0 $run --batch 8 --shards 1 --output whole
  expect 0 $run --batch 8 --shards 3 --threads 1 --output one
  expect 0 $run --batch 8 --shards 3 --threads 4 --output four
  cmp one.csv four.csv || fail "threads change the results of track_states"
  says one.json '"shards": 3'
  [ "$(grep -h '"loss"' whole.json one.json | awk '{ if (x) print x - $2 < 1e-4 && $2 - x < 1e-4; x = $2 }')" = 1 ] ||
    fail "shards change the loss of track_states by more than rounding"
  expect 1 $run --batch 2 --shards 3
  says err "--shards is 3, expected at most 2, the sequences of a batch"
}
mixers() {
  local sizes="--layers 1 --width 16 --context 16 --threads 1 --sample 0"
  for mixer in attention delta_net gated_delta_net gated_delta_product; do
    rm -rf c
    local run="$bin/train_lm $sizes --heads 2 --mixer $mixer --edits 2 --negative-eigenvalues --checkpoint c"
    expect 0 $run --steps 4
    says out "cc_ec, $mixer: "
    expect 0 $run --steps 6 --resume
    says out "goes on from step 4"
    expect 0 "$bin/sample" c --tokens 20 # more than the context
    expect 0 "$bin/audit_gates" c --windows 1 --shortcuts 0
    says out "cc_ec, $mixer, on 16 tokens"
    if [ $mixer = attention ]; then silent out "delta rule over time"; else says out "delta rule over time"; fi
  done
  expect 1 "$bin/train_lm" $sizes --heads 2 --mixer delta_net --edits 2 --negative-eigenvalues --checkpoint c --steps 6 --resume
  says err 'mixer is "delta_net", expected "gated_delta_product"'
  expect 0 "$bin/train_lm" $sizes --heads 2 --head-dim 4 --mixer delta_net --variant additive --steps 4 --checkpoint d
  expect 0 "$bin/audit_gates" d --windows 1 --output audit
  says out "delta rule over time"
  says audit.json '"above_one"'
  expect 105 "$bin/train_lm" --mixer rnn
  expect 1 "$bin/train_lm" $sizes --heads 3
  says err "heads is 3, expected a divisor of the 16 inputs, or a head_dim"
}
states() {
  local small="$bin/track_states --steps 4 --width 16 --heads 2 --length 8 --test-length 16 --test-sequences 4 --batch 4"
  expect 0 $small --task S3 --mixer delta_rule,write_only,attention --edits 1,2 --seeds 2 --threads 1 --output one
  expect 0 $small --task S3 --mixer delta_rule,write_only,attention --edits 1,2 --seeds 2 --threads 3 --output three
  says out "delta_rule beta<2 n=2 "
  says out "write_only beta<1 "
  for key in settings guessing models mixer residual largest_beta edits parameters runs seed steps loss seconds accuracy \
    beta beta_by_head above_1; do
    says one.json "\"$key\": "
  done
  [ "$(grep -c '"seed":' one.json)" = 18 ] || fail "not 9 models with 2 seeds"
  cmp one.csv three.csv || fail "threads change the results"
  expect 0 $small --residual additive,delta --beta 2 --seeds 1
  says out "delta_rule beta<2 over delta "
  expect 105 $small --edits 1,0
  says err "--edits: is 0, expected a whole number from 1 to 2147483647"
  expect 105 $small --task S4
  expect 1 $small --output no/such/folder
  says err "no/such/folder.json: "
  expect 1 "$bin/track_states" --batch 2147483647
  says err "there is not enough memory: --batch 2147483647 takes about "
  "$bin/track_states" --steps 100000 --threads 2 >out 2>err &
  sleep 1
  kill -TERM $!
  wait $!
  status=$?
  [ $status = 143 ] || fail "status $status after SIGTERM"
  says err "stopped by a signal"
}

"$2"
