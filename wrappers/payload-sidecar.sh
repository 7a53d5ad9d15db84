#!/bin/sh
# Evaluates in a container of its own what a pilot beside it hands over in a directory that both see:
#
#     sh payload-sidecar.sh [DIRECTORY]        (default: the current one)
#
# For any POSIX shell with sleep, mv and rm; no Python, no bash. All files lie in that directory:
#   __payload_in_sync_file__    begins an evaluation: removed, and `sh __run_main_exec.sh` is run. May hold a token.
#   __payload_out_sync_file__   ends it: "STATUS TOKEN", and "lost" behind it where nobody saw its end. A runner of the
#                               plain contract leaves this file empty.
#   payload.stdout, .stderr     what it printed, unless the script sends it elsewhere
#   __payload_running__         the end that is reported should this runner be killed now
#   __payload_alive__           changes each second as long as this runner lives
#   __payload_stop__            "TERM [TOKEN]", or another signal, for the evaluation and its group; "kill" for KILL
#   __payload_exit__            ends the evaluation and this runner, as TERM does
set -u
in=__payload_in_sync_file__
out=__payload_out_sync_file__
running=__payload_running__
alive=__payload_alive__
stop=__payload_stop__
leave=__payload_exit__
kept_s=10  # between TERM and KILL for the evaluation of a runner that is to end

cd "${1:-.}" || exit 2
tick=0.2 beat=5
sleep "$tick" 2>/dev/null || { tick=1 beat=1; }
session=
! command -v setsid >/dev/null 2>&1 || session=setsid
count=0 told=0
trap 'told=$((told + 1))' TERM INT

# The subshell makes this shell wait for a child, and so bury orphans, also where sleep is built in.
pause() {
    [ $((count % beat)) -ne 0 ] || { echo "$$ $count" >"$alive"; } 2>/dev/null
    count=$((count + 1))
    (sleep "$tick")
}

# Not all shells know "kill -- -N". What is not in the group is reached in a container only, where all processes but
# this one belong to the evaluation.
tell() {
    if [ -n "$session" ] && kill "-$1" "-$pid" 2>/dev/null; then return; fi
    if [ -z "$session" ] && [ $$ -eq 1 ]; then kill "-$1" -1; else kill "-$1" "$pid"; fi 2>/dev/null
}

group_lives() { [ -n "$session" ] && kill -0 "-$pid" 2>/dev/null; }

obey_stop() {
    mv -f "$stop" "$stop.seen" && read -r word whose <"$stop.seen" || word=TERM whose=
    rm -f "$stop.seen"
    [ "${whose:-$token}" = "$token" ] || return 0
    case $word in
        kill | KILL) stopping='' && tell KILL ;;
        INT | HUP | QUIT | USR1 | USR2) stopping=1 && tell "$word" ;;
        *) stopping=1 && tell TERM ;;
    esac
}

obey_leave() {
    if [ "$left" -lt 0 ]; then
        left=$((kept_s * beat)) stopping=1
        tell TERM
    elif [ "$left" -eq 0 ] || [ "$told" -gt 1 ]; then
        stopping=
        tell KILL
    else
        left=$((left - 1))
    fi
}

# The group of an evaluation that was told to stop has the time of its first process: a shell dies of TERM at once,
# while the program that it ran is still saving its state.
await() {
    stopping='' left=-1
    while kill -0 "$pid" 2>/dev/null || { [ -n "$stopping" ] && group_lives; }; do
        [ ! -e "$stop" ] || obey_stop
        if [ "$told" -gt 0 ] || [ -e "$leave" ]; then obey_leave; fi
        pause
    done
    wait "$pid"
    status=$?
}

# What it left behind would hold memory and GPU of the next one.
sweep() {
    if group_lives; then
        tell TERM
        pause
        tell KILL
    fi
    [ $$ -ne 1 ] || kill -KILL -1 2>/dev/null
}

# The end is written in place, over what was there from the start: it needs no room on a disk that has become full.
evaluate() {
    token=
    read -r token _ <"$in"
    token=${token:--}
    { echo "137 $token lost" >"$running"; } 2>/dev/null || return 1
    rm -f "$in"
    $session sh ./__run_main_exec.sh </dev/null >payload.stdout 2>payload.stderr &
    pid=$!
    await
    sweep
    printf '%-3s %s %-4s\n' "$status" "$token" '' 1<>"$running"
    rm -rf "$out"  # a directory of the evaluation's would swallow the file
    mv -f "$running" "$out"
}

# Left by a runner that was killed, with its container; what was not yet begun is not begun by this one.
report_lost() {
    next=''
    read -r _ token _ <"$running"
    [ ! -e "$in" ] || read -r next _ <"$in"
    [ "$token" != "$next" ] || rm -f "$in"
    mv -f "$running" "$out"
}

[ ! -e "$running" ] || report_lost
while [ "$told" -eq 0 ] && [ ! -e "$leave" ]; do
    if [ ! -e "$in" ] || ! evaluate; then pause; fi
done
rm -f "$leave" "$alive"
