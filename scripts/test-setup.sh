#!/bin/sh
# Installs what `make test` needs and is not there yet: the servers and clients
# of integration/packages.txt and a C compiler for the race detector. Where it
# may not install, it names what will be skipped; with CI=true it fails instead.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'test-setup: %s\n' "$*"; }

# without WHY: go on without what is missing, or not.
without() {
	say "$1"
	say "missing:$missing"
	if [ "${CI:-}" = true ]; then
		say "with CI=true nothing may be skipped"
		exit 1
	fi
	say "tests that need these are skipped and say so; without gcc the race detector is off"
	exit 0
}

wanted="gcc libc6-dev $(sed 's/#.*//' integration/packages.txt | tr '\n' ' ')"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	missing=" (see integration/packages.txt for the names of Debian's packages)"
	without "this is not Debian or Ubuntu: install the servers and clients yourself"
fi

missing=
for package in $wanted; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
	[ "$status" = installed ] || missing="$missing $package"
done
# INN's package cannot be configured on a machine without a full host name. Its
# programs run without that, so it is only unpacked, for integration/nntp_test.go.
inn=/var/lib/sallyport-tests/inn
unpack=
[ -x /usr/lib/news/bin/innd ] || [ -x "$inn/usr/lib/news/bin/innd" ] || unpack="inn2 inn2-inews"
if [ -z "$missing$unpack" ]; then
	say "all $(echo "$wanted" | wc -w) packages are installed"
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	root="sudo -n"
else
	without "neither root nor sudo without a password, so nothing can be installed; run once: sudo apt-get install$missing"
fi

# The tests start servers of their own, on ports of their own. While packages
# are installed, policy-rc.d keeps Debian from starting its servers as well.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap '$root rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
	$root chmod 755 "$policy"
fi

say "installing:$missing $unpack"
# --no-remove: a machine that already has another mail server keeps it.
apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }
apt update || without "apt-get update failed"
# shellcheck disable=SC2086 # one word a package
apt install -y --no-install-recommends --no-remove $missing || without "apt-get install failed"
if [ -n "$unpack" ]; then
	libraries=$(apt-cache depends inn2 | sed -n 's/^ *Depends: \(lib[^<>]*[0-9]\)$/\1/p')
	# shellcheck disable=SC2086
	apt install -y --no-install-recommends --no-remove $libraries || without "apt-get install failed"
	archives=$(mktemp -d)
	# shellcheck disable=SC2086
	(cd "$archives" && apt-get -q download $unpack) || without "apt-get download failed"
	$root mkdir -p "$inn"
	for archive in "$archives"/*.deb; do $root dpkg -x "$archive" "$inn"; done
	rm -r "$archives"
fi
say "done"
