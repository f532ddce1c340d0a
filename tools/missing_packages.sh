#!/usr/bin/env bash
# Print those of the Debian packages $@ that are not installed, one a line.
#
# Newer releases renamed some (libglib2.0-0t64): a package that an installed one provides counts as there.
set -euo pipefail
# The list is asked for once and kept: piped into a grep that ends at its first match, dpkg-query may be ended by
# SIGPIPE, and an installed package then counts as missing.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}, ${Provides}\n' | sed -n 's/^installed //p')
names=$(tr ',' '\n' <<<"$installed" | sed 's/^ *//; s/ .*//')
for package in "$@"; do
    grep -qxF -e "$package" <<<"$names" || echo "$package"
done
