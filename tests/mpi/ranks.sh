#!/usr/bin/env bash
# ranks.sh BIN CASE [KILLS]: programs on several ranks. Runs the function of this name in a folder of its own, and fails
# where a check does. BIN is the folder of the programs, MPIEXEC the launcher (mpirun). Run by ctest, label mpi; the case
# kills takes a number of kills and minutes, and is not.
set -u
bin=$(cd "$1" && pwd)
mpirun=${MPIEXEC:-mpirun}
folder=$(mktemp -d)
job=
trap '[ -n "$job" ] && kill "$job" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 1

# Open MPI refuses root, and more ranks than cores, unless told; versions 4 and 5 are told in two ways, others ignore both.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export ASAN_OPTIONS=detect_leaks=0 # of MPI's own

fail() {
  echo "FAILED: $*"
  for file in out err; do [ -f $file ] && { echo "--- $file"; tail -n 20 $file; }; done
  exit 1
}
says() { grep -qF -- "$2" "$1" || fail "no \"$2\" in $1"; }
times() { [ "$(grep -cF -- "$3" "$2")" = "$1" ] || fail "not $1 times \"$3\" in $2"; }
# launch RANKS COMMAND...: on one rank without mpirun; ended after a minute at most.
launch() {
  local ranks=$1
  shift
  if [ "$ranks" = 1 ]; then "$@" >out 2>err; else timeout -s KILL 60 "$mpirun" -n "$ranks" "$@" >out 2>err; fi
}
seq 10000 >text
small=("$bin/train_lm" --layers 1 --width 16 --heads 2 --context 16 --batch 8 --sample 0 --windows 8)
train=("${small[@]}" --shards 8 --text text)
steps=20
# train_on RANKS THREADS FOLDER [OPTIONS]
train_on() {
  local ranks=$1 threads=$2 to=$3
  shift 3
  launch "$ranks" "${train[@]}" --threads "$threads" --steps $steps --checkpoint "$to" "$@" || fail "$ranks x $threads: $*"
}
last() { printf '%s/checkpoint-%09d.safetensors' "$1" $steps; }
same() { cmp "$(last "$1")" "$(last "$2")" || fail "$2 has other bits than $1"; }

communicator() {
  for ranks in 1 2 4; do launch $ranks "$bin/test_mpi_communicator" --warn NoAssertions || fail "on $ranks ranks"; done
}

bits() {
  train_on 1 1 reference
  for run in 1x3 1x4 1x16 2x1 2x2 4x1 8x1; do
    train_on ${run%x*} ${run#*x} $run --json $run.json
    same reference $run
    times 1 out "parameters"
    times 1 out "step    20  training loss"
    times 1 $run.json '"begin"'
  done
  OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,self train_on 4 1 tcp
  same reference tcp
}

# Only rank 0 reads the checkpoint: the others have no folder.
resumes() {
  train_on 1 1 reference
  train_on 2 1 c --checkpoint-every 10 --keep 9
  for run in 4x1 1x2; do
    train_on ${run%x*} ${run#*x} c --resume c/checkpoint-000000010.safetensors
    says out "goes on from step 10"
    same reference c
  done
}

# start RANKS COMMAND...: a job in the background.
start() {
  local ranks=$1
  shift
  "$mpirun" -n "$ranks" "$@" >out 2>err &
  job=$!
}
# kill_rank RANK: the rank of the job. Fails if there is none (any more).
kill_rank() {
  local process
  for process in $(pgrep -P $job); do
    if tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -qE "^(OMPI_COMM_WORLD_RANK|PMI_RANK)=$1\$"; then
      kill -KILL "$process" 2>/dev/null
      return
    fi
  done
  return 1
}
# ended SECONDS: waits for the job so long. The status is in `status`.
ended() {
  for _ in $(seq $((10 * $1))); do
    kill -0 $job 2>/dev/null || break
    sleep 0.1
  done
  kill -0 $job 2>/dev/null && fail "the job is still there after $1 s"
  wait $job
  status=$?
  job=
}
kill_one() {
  steps=1000
  train_on 1 1 reference
  start 4 "${train[@]}" --threads 1 --steps $steps --checkpoint c --checkpoint-every 5
  for _ in $(seq 600); do [ -n "$(find c -name 'checkpoint-*.safetensors' 2>/dev/null)" ] && break; sleep 0.1; done
  kill_rank 2 || fail "there is no rank 2"
  ended 30
  [ $status != 0 ] || fail "the job with a killed rank succeeded"
  says err "rank 2"
  [ -e "$(last c)" ] && fail "the job ended before the kill"
  train_on 2 2 c --resume
  says out "goes on from step "
  same reference c
}

errors() {
  launch 3 "${train[@]}" --steps 5 && fail "3 ranks for 8 shards"
  says err "train_lm: rank 0 of 3: ddl::fit: the number of ranks is 3, expected a power of two of at most 8, the number of shards"
  times 1 err "the number of ranks is 3" # and no other rank says so
  launch 4 "${small[@]}" --text text --shards 2 && fail "4 ranks for 2 shards"
  says err "the number of ranks is 4, expected a power of two of at most 2, the number of shards"
  launch 2 "${train[@]}" --steps none && fail "--steps none"
  times 1 err "--steps: is none, expected"
  train_on 2 1 c
  launch 4 "${train[@]}" --steps 5 --checkpoint c && fail "a folder of another run" # an error of rank 0 alone
  says err "train_lm: rank 0 of 4: c: holds checkpoints of an earlier run"
  seq 9000 >other
  two_texts() { # rank 1 has the text "$1"
    timeout -s KILL 60 "$mpirun" -n 1 "${train[@]}" : -n 1 "${small[@]}" --shards 8 --text "$1" >out 2>err
  }
  two_texts other && fail "two texts"
  says err "the data of rank 1 differ from those of rank 0"
  two_texts none && fail "no text" # an error of rank 1 alone
  says err "train_lm: rank 1 of 2: none: "
}

# KILLS times: a run on 4 ranks, of which a random one is killed at a random moment, perhaps again and again, and that is
# resumed on any number of ranks and threads to its end. Its last checkpoint is that of the undisturbed run.
kills() {
  local kills=${1:-50} done=0 again=0 ranks=4 threads rank before
  steps=1000
  train_on 1 1 reference
  local shapes=("1 1" "1 2" "2 1" "2 2" "4 1" "8 1")
  RANDOM=${SEED:-1}
  while [ $done -lt "$kills" ]; do
    rm -rf c
    ranks=4 threads=1
    while :; do
      start $ranks "${train[@]}" --threads $threads --steps $steps --checkpoint c --checkpoint-every 1 --resume
      rank=$((RANDOM % ranks))
      sleep "$((RANDOM % 3)).$((RANDOM % 10))"
      before=$(date +%s%N)
      if kill_rank $rank; then
        ended 30
        [ $status = 0 ] && break # it had ended but for MPI_Finalize
        done=$((done + 1))
        says err "process rank $rank "
        echo "kill $done: rank $rank of $ranks, ended after $((($(date +%s%N) - before) / 1000000)) ms, $(find c -name 'check*' 2>/dev/null | sort | tail -n 1)"
      else
        ended 60
        [ $status = 0 ] || fail "status $status of a run without a kill"
        break
      fi
      find c -name '*.tmp*' 2>/dev/null | grep -q . && again=$((again + 1))
      [ $done -ge "$kills" ] && break
      [ $((RANDOM % 3)) = 0 ] || break
      read -r ranks threads <<<"${shapes[$((3 + RANDOM % 3))]}" # to be killed again, on 2 or more ranks
      [ "$ranks" -gt 1 ] || ranks=2
    done
    read -r ranks threads <<<"${shapes[$((RANDOM % 6))]}"
    train_on "$ranks" "$threads" c --resume
    same reference c
    find c -name '*.tmp*' | grep -q . && fail "a temporary was left"
  done
  echo "$done kills, $again of them during a save; every run ended with the bits of the undisturbed one"
}

"$2" "${3:-}"
