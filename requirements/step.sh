#!/usr/bin/env bash
# A step of an installation, which may take minutes: step.sh TEXT COMMAND ARGUMENT ...
# Shows the text, every 20 seconds the last line that the command wrote, and all of its output if it fails.
set -u
text=$1
shift
log=$(mktemp)
echo "$text ..."
# The command stays in the foreground: what runs behind a script does not hear Ctrl-C.
(while sleep 20 > /dev/null 2>&1; do echo "    $text, $SECONDS s: $(tail -n 1 "$log" | cut -c 1-90)"; done) &
alive=$!
trap 'kill "$alive" 2> /dev/null; rm -f "$log"' EXIT
"$@" > "$log" 2>&1
status=$?
if [ "$status" -ne 0 ]; then
  cat "$log"
  echo "$text: failed (status $status): $*"
else
  echo "$text: done, $SECONDS s"
fi
exit "$status"
