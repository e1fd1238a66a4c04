#!/usr/bin/env bash
# Sets up one machine of a cluster, head node or worker, before Ray starts there; a second run has nothing left to do.
# Cluster files run it with a time limit:   WM_STORAGE=s3://BUCKET/FOLDER timeout 1800 bash cluster/setup/machine.sh
# A step that fails ends it with an exit code, and Ray then ends the machine.
set -euo pipefail
: "${WM_STORAGE:?is the storage of the cluster: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or a shared folder}"
[ "$(id -u)" -ne 0 ] || command -v sudo >/dev/null || sudo() { "$@"; }    # containers for rent have no sudo
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# What Ray and its jobs inherit on this machine, and the shells of `ray attach` and `ray exec`.
write_environment() {
    chmod 700 ~/.ray
    chmod 600 ~/.ray/auth_token
    cat >~/.wm_environment <<EOF
export WM_STORAGE='$WM_STORAGE' RAY_AUTH_MODE=token PATH='$project/.venv/bin':\$PATH
EOF
    grep -qs wm_environment ~/.bashrc || echo '. ~/.wm_environment' >>~/.bashrc
}

# The image has most of it. Ubuntu installs updates after the boot: apt waits for its lock instead of failing.
install_packages() {
    local missing=() tool
    for tool in make gcc zstd; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # Triton compiles against Python.h.
    python3 -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
        missing+=(python3-dev)
    [ ${#missing[@]} -eq 0 ] && return
    sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
    sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq "${missing[@]}"
}

# The instance's own NVMe disks (8 TB in a p4d) hold the cache of corpora, which `data.disk_cache` names by default.
use_fast_disk() {
    local disks device place
    sudo systemctl start dlami-nvme 2>/dev/null || true   # AWS's images mount the disks themselves: wait for that
    mapfile -t disks < <(lsblk -dnpo NAME,MODEL | awk '/Instance Storage|nvme_card/ { print $1 }')
    [ ${#disks[@]} -gt 0 ] || return 0
    place=$(lsblk -nro MOUNTPOINT "${disks[0]}" | grep -m1 / || true)
    if [ -z "$place" ]; then
        place=/fast device=${disks[0]}
        if [ ${#disks[@]} -gt 1 ]; then
            device=/dev/md0
            sudo mdadm --create "$device" --run --level=0 --raid-devices=${#disks[@]} "${disks[@]}"
        fi
        sudo mkfs.ext4 -q -F -E nodiscard "$device"
        sudo mkdir -p "$place"
        sudo mount -o noatime,discard "$device" "$place"
    fi
    sudo install -d -o "$(id -un)" "$place/melee-world-model"
    mkdir -p ~/.cache
    [ -L ~/.cache/melee-world-model ] || rmdir ~/.cache/melee-world-model 2>/dev/null || true
    [ -e ~/.cache/melee-world-model ] || ln -s "$place/melee-world-model" ~/.cache/melee-world-model
}

# stored FROM TO: copies one file from or to the storage.
stored() {
    case $1$2 in
    *s3://*) aws s3 cp --only-show-errors "$1" "$2" ;;
    *gs://*) gcloud storage cp --quiet "$1" "$2" ;;
    *) mkdir -p "$(dirname "$2")" && cp "$1" "$2.part" && mv "$2.part" "$2" ;;
    esac
}

# The environment is built once, by the first machine (the head node), and stored as an archive under a hash of what it
# is built from. Every later machine unpacks that: a GPU machine would otherwise install for minutes at its price.
install_environment() {
    cd "$project"
    local key archive stored_archive
    key=$({ cat pyproject.toml constraints.txt Makefile && python3 --version && uname -m; } | sha256sum | cut -c1-16)
    stored_archive=$WM_STORAGE/environments/$key.tar.zst
    [ "$(cat .venv/.key 2>/dev/null)" = "$key" ] && return
    archive=$(mktemp --suffix .tar.zst)
    rm -rf .venv
    if stored "$stored_archive" "$archive" 2>/dev/null; then
        mkdir -p .unpacked
        tar -x -I zstd -C .unpacked -f "$archive"
        mv .unpacked/.venv .venv
        rmdir .unpacked
    else
        make gpu PYTHON=python3
        echo "$key" >.venv/.key
        tar -c -I 'zstd -T0 -3' -f "$archive" .venv
        stored "$archive" "$stored_archive" || echo "The environment could not be stored as $stored_archive." >&2
    fi
    rm -f "$archive"
}

write_environment
install_packages
use_fast_disk
install_environment
