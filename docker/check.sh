#!/usr/bin/env bash
# Run a Dockerfile's steps without a Docker engine: its stages become debootstrap roots, RUN lines run in them by chroot.
#
#   docker/check.sh docker/Dockerfile.cpu [--arg NAME=VALUE]... [--bind DIRECTORY]... [--env NAME]... [--keep DIRECTORY]
#
# Needs root, debootstrap and Debian's archive. It knows FROM debian:bookworm-slim, ARG, ENV, WORKDIR, COPY, RUN, USER
# and ENTRYPOINT in the forms used here, and refuses others. At the end the entry point answers --version and loads
# every library it was built with, as the image's user. --arg stands for docker's --build-arg; --bind shows a directory
# of this machine inside, read-only, while steps run; --env hands a variable in (a proxy, a certificate, a mirror).
# Everything is mounted in a namespace of its own: this machine's mounts stay as they are, whatever a step does.
# A debootstrap root is what debian:bookworm-slim is made from; layers, caching and the registry are not checked.
set -euo pipefail
if [ "${IN_OWN_NAMESPACE:-}" != yes ]; then
    [ "$(id -u)" = 0 ] || { echo "error: chroot needs root" >&2; exit 2; }
    command -v debootstrap >/dev/null || { echo "error: install debootstrap first" >&2; exit 2; }
    IN_OWN_NAMESPACE=yes exec unshare --mount --propagation private "$0" "$@"
fi
dockerfile=$1
shift
context=$(cd "$(dirname "$0")/.." && pwd)
declare -A arguments variables=() roots=()
binds=() given=() keep="" base="" root="" work=/ user=root
while (($#)); do
    case $1 in
    --arg) arguments[${2%%=*}]=${2#*=} ;;
    --bind) binds+=("$2") ;;
    --env) given+=("$2=${!2}") ;;
    --keep) keep=$2 ;;
    *) echo "error: unknown option $1" >&2 && exit 2 ;;
    esac
    shift 2
done
scratch=${keep:-$(mktemp -d)}
mkdir -p "$scratch"

leave() { # the namespace takes the mounts with it; until then they are no part of what is deleted
    [ -n "$keep" ] || rm -rf --one-file-system "$scratch" 2>/dev/null || true
}
trap leave EXIT

new_stage() {
    root=$scratch/$1 work=/ user=root variables=()
    rm -rf --one-file-system "$root"
    cp -a "$base" "$root"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    mkdir -p "$root/proc" "$root/dev"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    mknod -m 666 "$root/dev/null" c 1 3
    mknod -m 666 "$root/dev/zero" c 1 5
    mknod -m 666 "$root/dev/urandom" c 1 9
    mknod -m 666 "$root/dev/random" c 1 8
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir -m 1777 "$root/dev/shm"
    for directory in ${binds[@]+"${binds[@]}"}; do
        mkdir -p "$root$directory"
        mount --bind "$directory" "$root$directory"
        mount -o remount,ro,bind "$root$directory"
    done
}

inside() { # run a shell line in the stage, as its user, in its directory
    local settings=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "DEBIAN_FRONTEND=noninteractive")
    local name
    for name in "${!variables[@]}"; do settings+=("$name=${variables[$name]}"); done
    local home=/root
    [ "$user" = root ] || home=/home/$user
    env -i HOME="$home" ${given[@]+"${given[@]}"} "${settings[@]}" \
        chroot --userspec="$user" "$root" /bin/sh -c "cd '$work' && $1"
}

copy() {
    local from=$context sources target
    if [[ $1 == --from=* ]]; then
        from=${roots[${1#--from=}]}
        shift
    fi
    target=${!#}
    sources=("${@:1:$#-1}")
    [[ $target == /* ]] || target=$work/$target
    for source in "${sources[@]}"; do
        if [[ $target == */ || $target == */. ]]; then
            mkdir -p "$root$target"
            cp -a "$from/$source" "$root$target"
        else
            mkdir -p "$root$(dirname "$target")"
            cp -aT "$from/$source" "$root$target"
        fi
    done
}

step() {
    local instruction=${1%% *} rest=${1#* }
    echo "--- $1" | cut -c1-160
    case $instruction in
    FROM)
        [[ $rest == "debian:bookworm-slim"* ]] || { echo "error: cannot make $rest" >&2; exit 2; }
        local name=final
        [[ $rest == *" AS "* ]] && name=${rest##* AS }
        new_stage "$name"
        roots[$name]=$root
        ;;
    ARG) variables[${rest%%=*}]=${arguments[${rest%%=*}]:-${rest#*=}} ;;
    ENV) variables[${rest%%=*}]=${rest#*=} ;;
    WORKDIR) work=$rest && mkdir -p "$root$work" ;;
    COPY) eval "copy $rest" ;;
    RUN) inside "set -e; $rest" ;;
    USER) user=$rest ;;
    ENTRYPOINT) entry=$(tr -d '[]",' <<<"$rest") ;;
    *) echo "error: $instruction is not known here" >&2 && exit 2 ;;
    esac
}

began=$SECONDS
base=$scratch/base
[ -e "$base/.made" ] || { debootstrap --variant=minbase bookworm "$base" >"$scratch/debootstrap.log" && touch "$base/.made"; }
echo "base root: $((SECONDS - began)) s"
line=""
while IFS= read -r raw <&3; do
    [[ -z $line && ($raw == "" || $raw == "#"*) ]] && continue
    line+=${raw%\\}
    [[ $raw == *\\ ]] && continue
    step "$line"
    line=""
done 3<"$dockerfile"
[ "$user" != root ] || { echo "error: the image runs as root" >&2; exit 1; }
inside "$entry --version"
inside 'python3 -c "import torch, cv2, numba, safetensors, sklearn, pycpd, ffcv, nvidia.dali; print(\"loaded: torch\", torch.__version__)"'
shown=(${binds[@]+"${binds[@]/#/--exclude=$root}"}) # on the same file system du would count them
echo "$(du -sh --one-file-system ${shown[@]+"${shown[@]}"} "$root" | cut -f1) in the image; $((SECONDS - began)) s"
