#!/bin/bash
# Fills in launch/gke_jobset.yaml and applies it.
#
#   IMAGE=REGISTRY/mmu:1 NODES=4 GPUS=8 NAME=people launch/gke.sh \
#       mmu pipeline --config=people --workdir=/runs/people
#
# launch/gke.sh --dry_run ... prints the manifest and applies nothing; pipe it
# into `kubectl apply --dry-run=server -f -` to have the cluster check it.
#
# The workdir is in /runs, the persistent volume of the manifest.
#
# With MMU_EXACT=1 a run that goes on is bit for bit the one that was evicted: by
# deterministic kernels, which may be slower.
#
# A JobSet of this name that is done is in the way of a new one:
#   kubectl delete jobset people

set -euo pipefail

dry_run=
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi
if (($# == 0)); then
  echo "usage: launch/gke.sh [--dry_run] mmu pipeline --config=..." >&2
  exit 2
fi
name=${NAME:-mmu}
nodes=${NODES:-2}
image=${IMAGE:-mmu:latest}
gpus=${GPUS:-8}
for number in "$nodes" "$gpus"; do
  if ! [[ $number =~ ^[1-9][0-9]*$ ]]; then
    echo "gke.sh: NODES and GPUS are numbers >= 1; got '$number'" >&2
    exit 2
  fi
done

if [[ -z $dry_run && -z ${IMAGE:-} ]]; then
  echo 'gke.sh: set IMAGE to an image that the cluster can pull, such as' \
    'REGISTRY/mmu:1 (build launch/Dockerfile and push it)' >&2
  exit 2
fi
before=
for word in "$@"; do
  [[ $before == --workdir ]] && word=--workdir=$word
  outside=
  [[ $word == --workdir=/runs/?* && $word/ != */../* ]] || outside=1
  if [[ $word == --workdir=* && -n $outside ]]; then
    echo "gke.sh: only the volume /runs outlasts a pod; got '$word'." \
      'Give --workdir=/runs/NAME' >&2
    exit 2
  fi
  before=$word
done

flags=--xla_gpu_enable_latency_hiding_scheduler=true
if [[ ${MMU_EXACT:-0} != 0 ]]; then
  flags+=' --xla_gpu_deterministic_ops=true'
fi

command=
for word in "$@"; do
  word=${word//\\/\\\\}
  command+="${command:+, }\"${word//\"/\\\"}\""
done

# Keeps what is before the value, and puts the value there.
fill() {
  local value=${2//\\/\\\\}
  value=${value//&/\\&}
  sed -E "s|^( *(- )?[^ ]+: ).* # gke.sh: $1\$|\1${value//|/\\|}|"
}

manifest=$(
  fill NAME "$name" < "$(dirname "$0")/gke_jobset.yaml" |
    fill NODES "$nodes" |
    fill COUNT "\"$nodes\"" |
    fill IMAGE "$image" |
    fill GPUS "$gpus" |
    fill FLAGS "$flags" |
    fill COORDINATOR "$name-workers-0-0.$name:8476" |
    fill COMMAND "[$command]"
)
if [[ -n $dry_run ]]; then
  echo "$manifest"
else
  kubectl apply -f - <<< "$manifest"
fi
