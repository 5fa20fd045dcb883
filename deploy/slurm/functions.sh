# The address at which Slurm itself reaches a node.
address_of() {
  scontrol --oneliner show node "$1" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p'
}

# Waits for a child, however often signals interrupt that; its exit status is in `status`.
await() {
  status=0
  wait "$1" || status=$?
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
}
