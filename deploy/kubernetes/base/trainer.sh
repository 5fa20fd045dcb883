#!/usr/bin/env bash
# Starts the ranks of one trainer pod: TRAINER_PODS of them with RANKS_PER_POD each. Arguments go to `penstock train`.
#
# A JobSet makes all pods anew when one has failed; they then go on from the run's checkpoint. The folder of a run that
# failed before its first checkpoint holds nothing worth keeping; that of one that is over leaves nothing to do.
set -euo pipefail

run_dir=${RUN_DIR:?} pods=${TRAINER_PODS:?} ranks=${RANKS_PER_POD:?}
index=${JOB_COMPLETION_INDEX:?} address=${POD_IP:?} subdomain=${SUBDOMAIN:?}
first=$((index * ranks))

if [[ -e $run_dir/summary.json ]]; then
  echo "the run in $run_dir is over; name another RUN_DIR, or remove its summary.json to go on with more --max-steps"
  exit 0
elif [[ -e $run_dir/checkpoint/state.json || -e $run_dir/checkpoint.old/state.json ]]; then
  life=--resume
else
  life=--overwrite
fi
if [[ $address == *:* ]]; then
  address="[$address]" every="[::]"
else
  every=0.0.0.0
fi

# Rank r takes the port r higher, so every pod counts from where its first rank has the same port as those of the others:
# probes, network policies and Prometheus then see one template. Metrics listen on localhost too, for port-forward.
arguments=(
  --run-dir "$run_dir" "$life"
  --stream.endpoint "tcp://$address:$((5599 - first))"
  --stream.advertise "$HOSTNAME.$subdomain"
  --metrics "$every:$((9400 - first))"
  "$@"
)

# Where the ranks meet: the pod of rank 0, by the name that the JobSet's service gives it.
main=${HOSTNAME%-*}-0.$subdomain port=29500
if ((ranks > 1)); then
  exec accelerate launch --multi_gpu --num_machines "$pods" --num_processes $((pods * ranks)) \
    --machine_rank "$index" --main_process_ip "$main" --main_process_port "$port" \
    --mixed_precision no --dynamo_backend no -m penstock.consumer "${arguments[@]}"
fi
if ((pods > 1)); then
  export RANK=$index WORLD_SIZE=$pods LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=$main MASTER_PORT=$port
fi
exec penstock train "${arguments[@]}"
