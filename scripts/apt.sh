# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Debian packages without touching the system: an apt configuration of our own under the build tree, with its own
# lists, cache and (empty) package status, so that dependencies resolve as on an empty machine. Signatures are
# checked as always, against the keys of the machine's own debian-archive-keyring.
# Also: why an apt run failed, in one sentence.

# Prints the reason for a failure that apt logged in file $1.
apt_explain() {
    local log=$1
    if grep -qiE 'no space left|not enough free space|write error' "$log"; then
        echo "the disk is full: make room and try again"
    elif grep -qiE 'permission denied|are you root|could not open lock|not in the sudoers' "$log"; then
        echo "no permission to run apt: try as root, or install sudo and allow yourself to use it"
    elif grep -qiE 'could not get lock' "$log"; then
        echo "another apt or dpkg is running: wait for it and try again"
    elif grep -qiE 'NO_PUBKEY|not signed|is not valid yet|has expired|EXPKEYSIG' "$log"; then
        echo "the package mirror's signature cannot be checked: update debian-archive-keyring and the clock"
    elif grep -qiE 'temporary failure resolving|could not resolve|could not connect|unable to connect|connection (failed|timed out|refused)|failed to fetch|network is unreachable' "$log"; then
        echo "the package mirror does not answer: check the network and /etc/apt/sources.list (or sources.list.d)"
    elif grep -qiE 'unable to locate package|no installation candidate|does not have a release file' "$log"; then
        echo "the package mirror lacks a package that is needed: $(grep -iE -m1 'locate package|installation candidate|release file' "$log" | sed 's/^E: //')"
    else
        echo "apt failed: $(grep -E '^E: ' "$log" | tail -1 | sed 's/^E: //')"
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Ends the script unless apt can be run as root; $1 is what somebody who can should run instead.
apt_require_root() {
    [ "$(id -u)" = 0 ] && return
    command -v sudo >/dev/null || die "no permission (not root, and no sudo here): as root, run: $1"
    sudo -n true 2>/dev/null && return
    [ -t 0 ] || die "no permission without a password: as root, run: $1"
    sudo true || die "no permission: as root, run: $1"
}

# Fetches the machine's own package lists. A third party's source that is dead does not count: what is done with the
# lists afterwards decides.
apt_refresh_lists() {
    say "fetching the package lists"
    quietly "$1" as_root apt-get -q -o DPkg::Lock::Timeout=300 update || true
}

# Fetches them if they never were (as in a container's image): without them, apt does not tell which its mirror is.
apt_require_lists() {
    [ -z "$(apt_machine_mirror)" ] || return 0
    apt_require_root "apt-get update"
    apt_refresh_lists "$1"
}

# Prints the archive (scheme, host and path) from which this machine takes Debian's main packages, without naming
# one here: it is whatever the machine's own apt is configured for. Empty if its lists were never fetched.
apt_machine_mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && $2 == "main" && $3 == "Debian" { print $4; exit }'
}

# Prints one sources.list line for each Debian repository (security and updates included) that the machine uses.
apt_machine_sources() {
    apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v o="$(apt_source_options)" '$1 == "Debian" && $2 == "main" { print "deb " o $3 " " $4 " main" }' |
        sort -u
}

# Options of a sources.list line: check against Debian's keys only, where the machine has them in one file.
apt_source_options() {
    local keys
    for keys in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        if [ -r "$keys" ]; then
            echo "[signed-by=$keys] "
            return
        fi
    done
}

# Makes private apt folder $1 with the sources.list text $2.
apt_private_create() {
    local dir=$1
    mkdir -p "$dir"/state/lists/partial "$dir"/cache/archives/partial
    printf '%s\n' "$2" >"$dir/sources.list"
    : >"$dir/status"
    cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$dir/state";
Dir::State::lists "$dir/state/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Cache::archives "$dir/cache/archives";
Dir::Cache::pkgcache "";
Dir::Log "$dir";
APT::Architecture "amd64";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Periodic::Enable "0";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "3";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
CONF
}

# Runs apt-get with private folder $1.
apt_private() {
    local dir=$1
    shift
    apt-get -c "$dir/apt.conf" -q -y "$@"
}

# Downloads packages and all that they depend on. Usage: apt_private_download DIR LOG PACKAGE...
apt_private_download() {
    local dir=$1 log=$2
    shift 2
    : >"$log"
    quietly "$log" apt_private "$dir" -o APT::Update::Error-Mode=any update || return 1
    quietly "$log" apt_private "$dir" install --download-only "$@" || return 1
}
