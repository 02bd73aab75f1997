#!/bin/bash
# Cloud TPU VMs by queued resources: one process on each host of a slice.
#
#   export TPU_NAME=mmu TPU_ZONE=us-east5-a TPU_TYPE=v5litepod-16
#   launch/tpu_vm.sh create               # ask for the slice; repeat `state`
#   launch/tpu_vm.sh state
#   launch/tpu_vm.sh install              # this commit, on every host
#   launch/tpu_vm.sh run mmu doctor
#   launch/tpu_vm.sh run mmu pipeline --config=people \
#       --workdir=/mnt/runs/people
#   launch/tpu_vm.sh logs                 # of host 0, as they come
#   launch/tpu_vm.sh stop                 # saves and ends; `run` goes on
#   launch/tpu_vm.sh delete
#
# launch/tpu_vm.sh --dry_run COMMAND ... prints the gcloud commands instead.
#
# Also read: TPU_RUNTIME (software of the VM), TPU_SPOT=1 (cheaper, may be taken
# away), TPU_PROJECT. The workdir must be on a file system that every host has
# mounted at the same path (Filestore, or a bucket by Cloud Storage FUSE).
#
# A spot slice that is taken away gets a new one by `delete` and `create`; then
# `install`, and the same `run` goes on from the last checkpoint.

set -euo pipefail

name=${TPU_NAME:-mmu}
zone=${TPU_ZONE:-us-east5-a}
type=${TPU_TYPE:-v5litepod-16}
runtime=${TPU_RUNTIME:-v2-alpha-tpuv5-lite}
where=("--zone=$zone")
if [[ -n ${TPU_PROJECT:-} ]]; then
  where+=("--project=$TPU_PROJECT")
fi

dry_run=
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi

# Runs a command, or prints it.
call() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# Runs a shell line on some hosts.
on() {
  call gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
    "--worker=$1" "--command=$2"
}

queue=(gcloud compute tpus queued-resources)
case ${1:-} in
  create)
    spot=()
    if [[ -n ${TPU_SPOT:-} ]]; then
      spot=(--spot)
    fi
    call "${queue[@]}" create "$name" "--node-id=$name" "${where[@]}" \
      "--accelerator-type=$type" "--runtime-version=$runtime" \
      ${spot[@]+"${spot[@]}"}
    ;;
  state)
    call "${queue[@]}" describe "$name" "${where[@]}" "--format=value(state)"
    ;;
  install)
    archive=$(mktemp -d)/mmu.tar.gz
    trap 'rm -r "$(dirname "$archive")"' EXIT
    call git archive --format=tar.gz "--output=$archive" HEAD
    call gcloud compute tpus tpu-vm scp "$archive" "$name:mmu.tar.gz" \
      "${where[@]}" --worker=all
    # The Python of the VM is too old; uv brings one.
    on all "set -e
      python3 -m pip install --quiet --user uv
      mkdir -p mmu && tar -xzf mmu.tar.gz -C mmu
      python3 -m uv venv --quiet --allow-existing --python=3.12 mmu_env
      python3 -m uv pip install --quiet --python=mmu_env './mmu' 'jax[tpu]'"
    ;;
  run)
    shift
    if (($# == 0)); then
      echo "usage: launch/tpu_vm.sh run mmu pipeline --config=..." >&2
      exit 2
    fi
    # Every host runs the same command; it outlives the connection. A second
    # one would wait for the devices that the first one has.
    on all "if [ -s mmu.pid ] && kill -0 \$(cat mmu.pid) 2> /dev/null; then
      echo \"mmu runs already, as process \$(cat mmu.pid): end it by\" \
        \"launch/tpu_vm.sh stop and wait, or delete ~/mmu.pid\" >&2
      exit 1
    fi
    cd mmu && export PATH=\$HOME/mmu_env/bin:\$PATH && \
(nohup $(printf '%q ' "$@") > ~/mmu.log 2>&1 < /dev/null & echo \$! > ~/mmu.pid)"
    ;;
  logs)
    on 0 "tail -n 100 -f mmu.log"
    ;;
  stop)
    on all "kill -TERM \$(cat mmu.pid)"
    ;;
  delete)
    call "${queue[@]}" delete "$name" "${where[@]}" --force --quiet
    ;;
  *)
    echo "usage: launch/tpu_vm.sh [--dry_run]" \
      "create|state|install|run COMMAND|logs|stop|delete" >&2
    exit 2
    ;;
esac
