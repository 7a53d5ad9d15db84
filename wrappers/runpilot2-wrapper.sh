#!/bin/sh
# Stands in for PanDA's runpilot2-wrapper.sh: takes its options and those of pilot.py, and becomes `pilot run`.
# What has a meaning here becomes a setting of the pilot; all else is named in one line on stderr and ignored, so
# that a site can switch without changing how it calls. Values are never logged: some sites pass secrets.
set -eu

usage() {
    cat <<'END'
usage: runpilot2-wrapper.sh [options of runpilot2-wrapper.sh or of pilot.py]

What becomes a setting of the pilot (--x=y and --x y are the same):
  -q, --queue NAME                  PanDA queue
  -a, --workdir DIR                 scratch directory
  -j, --joblabel LABEL              prod_source_label to ask for
  -i, --versiontag TAG              flavour of the pilot, as the server's pages show it
  -l, --lifetime SECONDS            stop by ourselves so long after the start
  -d, --debug                       log more
  -g, --baseurls URL,...            where transformations may be downloaded from
  -p, --port PORT                   of the server, if its URL names none  [25443, or 25080 for http]
  --url URL                         the PanDA server
  --resource-type TYPE              resource type to ask for
  --job-type TYPE                   job type to ask for
  --queuedata-url URL               queue data, URL or file
  --storagedata-url URL             storage data, URL or file
  --cacert FILE                     client certificate or proxy
  --capath PATH                     certificate authorities
  --harvester-submit-mode MODE      PUSH: run the job of pandaJobData.out, here or in /scratch/jobconfig
  -h, --help                        this text

All other options are named in the log and ignored. Everything else can be set by PILOT_<SETTING> in the environment.
END
}

say() { printf 'runpilot2-wrapper: %s\n' "$*" >&2; }
wrong() { say "$*"; exit 78; }

# What kind of option it is: value or flag; meaningless_* where nothing here answers to it; nothing where it is unknown.
kind() {
    case $1 in
        -q | --queue | -a | --workdir | -j | --joblabel | -i | --versiontag | -l | --lifetime | -g | --baseurls | \
            -p | --port | --url | --resource-type | --job-type | --queuedata-url | --storagedata-url | --cacert | \
            --capath | --harvester-submit-mode) echo value ;;
        -d | --debug | -h | --help) echo flag ;;
        -r | --resource | -s | --site | -w | --workflow | -v | --getjobrequests | -x | --getjobfailures | \
            -L | --leasetime | --piloturl | --pilotversion | --pythonversion | --cvmfsbase | --harvester | \
            --harvester_workflow | --pilot-user | --allow-same-user | --allow-other-country | \
            --country-group | --working-group | --cleanup | --use-https | --stageout-attempts | \
            --redirect-stdout | --input-dir | --input-destination-dir | --output-dir | --hpc-resource | \
            --hpc-mode | --es-executor-type | --harvester-workdir | --harvester-datadir | \
            --harvester-eventstatusdump | --harvester-workerattributes | --realtime-logging-server | \
            --realtime-logname) echo meaningless_value ;;
        -t | --noproxyverification | -u | --verifypayloadproxy | -y | --notokenrenewal | -z | --noserverupdate | \
            -k | --noworkerpilotstatusupdate | -b | --nocvmfs | -S | --shoal | --localpy | --container | --alma9 | \
            --mute | --pod | --no-pilot-log | --use-realtime-logging | --subscribe-to-msgsvc) echo meaningless_flag ;;
    esac
}

# An option that is not used, by its name alone; what does not look like a name is not shown.
ignore() {
    case $1 in
        -*[!A-Za-z0-9_-]* | [!-]* | '') say "an argument that is no option is ignored" ;;
        *) say "$1 is ignored: $2" ;;
    esac
}

# Keeps the value of an option: what `pilot run` has no option for goes into its environment.
apply() {
    case $1 in
        -q | --queue) queue=$2 ;;
        -a | --workdir) work=$2 ;;
        -j | --joblabel) export PILOT_LABEL="$2" ;;
        -i | --versiontag) export PILOT_PILOT_TYPE="$2" ;;
        -l | --lifetime) export PILOT_DEADLINE="$2" ;;
        -d | --debug) export PILOT_LOG_LEVEL=debug ;;
        -g | --baseurls) export PILOT_TRANSFORM_URLS="$2" ;;
        -p | --port) port=$2 ;;
        --url) url=$2 ;;
        --resource-type) export PILOT_RESOURCE_TYPE="$2" ;;
        --job-type) export PILOT_JOB_TYPE="$2" ;;
        --queuedata-url) export PILOT_QUEUEDATA="$2" ;;
        --storagedata-url) export PILOT_STORAGEDATA="$2" ;;
        --cacert) export PILOT_CERTIFICATE="$2" ;;
        --capath) export PILOT_CA="$2" ;;
        --harvester-submit-mode) mode=$2 ;;
        -h | --help) usage; exit 0 ;;
    esac
}

# The server's URL with scheme and port, as pilot.py completes it.
server() {
    case $url in
        http://* | https://*) scheme=${url%%://*} rest=${url#*://} ;;
        *) scheme=https rest=$url ;;
    esac
    host=${rest%%/*}
    case $host in
        *']') bare=yes ;; # an IPv6 address
        *:*) bare=no ;;
        *) bare=yes ;;
    esac
    if [ "$bare" = yes ]; then
        if [ "$scheme" = http ]; then known=25080; else known=25443; fi
        host=$host:${port:-$known}
    fi
    path=${rest#"${rest%%/*}"}
    printf '%s://%s%s\n' "$scheme" "$host" "${path%/}"
}

# Where the job of push mode lies: in the work directory of old, or where Harvester's ConfigMap puts it.
job_file() {
    for place in "$PWD" "${work:-$PWD}"; do
        if [ -f "$place/pandaJobData.out" ]; then printf '%s\n' "$place/pandaJobData.out"; return; fi
    done
    echo /scratch/jobconfig/pandaJobData.out
}

queue='' work='' port='' url='' mode=PULL
while [ $# -gt 0 ]; do
    option=${1%%=*}
    value='' has_value=no words=1
    case $1 in
        *=*) value=${1#*=} has_value=yes ;;
        *)
            case ${2--} in
                -*) ;; # the next option, or there is none
                *) value=$2 has_value=yes words=2 ;;
            esac
            ;;
    esac
    kind=$(kind "$option")
    case $kind in
        value)
            [ "$has_value" = yes ] || wrong "$option needs a value"
            apply "$option" "$value"
            ;;
        flag) words=1; apply "$option" '' ;;
        meaningless_value) ignore "$option" "it has no meaning for this pilot" ;;
        meaningless_flag) words=1; ignore "$option" "it has no meaning for this pilot" ;;
        *)
            case $option in -*) ;; *) words=1 ;; esac
            ignore "$option" "it is unknown"
            ;;
    esac
    shift "$words"
done

set -- run
[ -z "$queue" ] || set -- "$@" --queue "$queue"
[ -z "$work" ] || set -- "$@" --work "$work"
[ -z "$url" ] || set -- "$@" --server "$(server)"
[ "$mode" != PUSH ] || set -- "$@" --job "$(job_file)"

# exec: no shell is left between the pilot and its signals.
if command -v pilot >/dev/null 2>&1; then exec pilot "$@"; fi
if [ -x /opt/venv/bin/pilot ]; then exec /opt/venv/bin/pilot "$@"; fi
if python3 -c 'import pilot.agent.cli' >/dev/null 2>&1; then exec python3 -m pilot "$@"; fi
say "there is no pilot: neither on PATH nor as /opt/venv/bin/pilot nor as a module of python3"
exit 64
