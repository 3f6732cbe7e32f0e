# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What every suite here shares: a panic of L0's or a line of its DETECTOR, in whichever boot, fails the suite, whatever
# else the suite looks at. Source it from the root of the tree, with `work` set, before the first boot; a suite's last
# command is `finish STATUS`, which exits.

# shellcheck disable=SC2154 # the suite sets work
PLASTRON_DEFECTS=$(realpath -m -- "$work")/defects # `plastron run` notes them there
export PLASTRON_DEFECTS
mkdir -p -- "$work" || exit 1
: >"$PLASTRON_DEFECTS" || exit 1

finish() {
    if [ -s "$PLASTRON_DEFECTS" ]; then
        echo "not ok - L0 has no defect: neither a panic nor a DETECTOR line in any boot"
        head -n 20 "$PLASTRON_DEFECTS" | sed 's/^/# /'
        exit 1
    fi
    echo "ok - L0 has no defect: neither a panic nor a DETECTOR line in any boot"
    exit "$1"
}
