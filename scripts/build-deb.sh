#!/bin/sh
# Builds dist/sallyport_VERSION-1_ARCH.deb with Go and dpkg-deb, nothing else.
#
#   VERSION            default: the git tag, or 0.0.0~git and the commit
#   GOARCH             for another machine than this
#   OUT                where to, instead of dist
#   SOURCE_DATE_EPOCH  the time of every file; default: of the commit. With the
#                      same sources, Go and time, the package is the same, bit
#                      by bit (https://reproducible-builds.org)
set -eu
cd "$(dirname "$0")/.."
umask 022

: "${GO:=go}" "${OUT:=dist}"
arch=$("$GO" env GOARCH)
case $arch in
386) debarch=i386 ;;
arm) debarch=armhf GOARM=7 && export GOARM ;;
ppc64le) debarch=ppc64el ;;
*) debarch=$arch ;;
esac
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
fi
export SOURCE_DATE_EPOCH
if [ -z "${VERSION:-}" ]; then
	VERSION=$(git describe --exact-match --match 'v[0-9]*' 2>/dev/null || true)
	VERSION=${VERSION#v}
	: "${VERSION:=0.0.0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$(git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)}"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
root=$work/root

# put MODE FILE PATH: a file of the package.
put() { install -D -m "$1" "$2" "$root$3"; }
# here is Go for this machine, whatever the package is for.
here() { env -u GOARCH -u GOARM CGO_ENABLED=0 "$GO" "$@"; }

CGO_ENABLED=0 "$GO" build -trimpath -ldflags=-s -o "$work/sallyport" ./cmd/sallyport
here build -trimpath -o "$work/here" ./cmd/sallyport
here test ./cmd/sallyport -count=1 -run '^TestManual$' -man "$work/man" >"$work/man.log" || {
	cat "$work/man.log"
	exit 1
}
for shell in bash zsh fish; do "$work/here" completion $shell >"$work/$shell"; done

put 755 "$work/sallyport" /usr/bin/sallyport
put 644 packaging/systemd/sallyport.service /lib/systemd/system/sallyport.service
put 644 packaging/systemd/sysusers.conf /usr/lib/sysusers.d/sallyport.conf
put 644 packaging/debian/sallyport.hcl /etc/sallyport/sallyport.hcl
put 644 packaging/debian/default /etc/default/sallyport
put 644 "$work/bash" /usr/share/bash-completion/completions/sallyport
put 644 "$work/zsh" /usr/share/zsh/vendor-completions/_sallyport
put 644 "$work/fish" /usr/share/fish/vendor_completions.d/sallyport.fish
put 644 packaging/debian/lintian-overrides /usr/share/lintian/overrides/sallyport
for page in "$work"/man/man?/*; do
	gzip -9n "$page"
	put 644 "$page.gz" "/usr/share/man/man${page##*.}/${page##*/}.gz"
done

# Documentation. What lies beside the examples for tests stays here.
for file in README.md docs/*.md docs/*/*.md; do put 644 "$file" "/usr/share/doc/sallyport/$file"; done
put 644 packaging/systemd/sallyport.socket /usr/share/doc/sallyport/examples/sallyport.socket
for file in examples/*/* packaging/prometheus/*.yml packaging/grafana/*.json; do
	case $file in
	*_test.* | *.go) ;;
	*) [ ! -f "$file" ] || put 644 "$file" "/usr/share/doc/sallyport/examples/${file#*/}" ;;
	esac
done
gzip -9nc CHANGELOG.md >"$work/changelog"
put 644 "$work/changelog" /usr/share/doc/sallyport/changelog.gz
maintainer=$(sed -n 's/^Maintainer: //p' packaging/debian/control)
gzip -9n >"$work/changelog.Debian" <<EOF
sallyport ($VERSION-1) unstable; urgency=medium

  * What users notice is in changelog.gz.

 -- $maintainer  $(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" -R)
EOF
put 644 "$work/changelog.Debian" /usr/share/doc/sallyport/changelog.Debian.gz

# Every module that is linked in, with its licence.
"$GO" list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/sallyport | sort -u |
	while read -r module version dir; do
		for licence in "$dir"/LICENSE* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ ! -f "$licence" ] || printf '\n---- %s %s: %s\n\n%s\n' "$module" "$version" "${licence##*/}" "$(cat "$licence")"
		done
	done | gzip -9n >"$work/licences"
put 644 "$work/licences" /usr/share/doc/sallyport/licences.gz
put 644 packaging/debian/copyright /usr/share/doc/sallyport/copyright

mkdir "$root/DEBIAN"
sed -e "s/@VERSION@/$VERSION-1/" -e "s/@ARCH@/$debarch/" -e "s/@SIZE@/$(du -sk --apparent-size "$root" | cut -f1)/" \
	packaging/debian/control >"$root/DEBIAN/control"
install -m 644 packaging/debian/conffiles "$root/DEBIAN/"
install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$root/DEBIAN/"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"

mkdir -p "$OUT"
deb=$OUT/sallyport_${VERSION}-1_$debarch.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
echo "$deb"
