# shellcheck shell=bash
# Debian packages from suites that the machine's apt does not have: with a state
# of our own in the cache, from the mirror that the machine itself uses, checked
# by its Debian keyring. Nothing of the system's apt configuration changes.
# Source it after lib.sh.

# shellcheck source-path=SCRIPTDIR source=lib.sh
[[ -n ${root:-} ]] || . "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# apt_sources: each entry of the machine's sources that has the component main,
# as "URI SUITE", from both formats. MIRROR=URI in the environment goes first.
apt_sources() {
	local f

	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[[ ! -f $f ]] || awk '
		$1 == "deb" {
			sub(/#.*/, ""); sub(/^deb[ \t]+(\[[^]]*\])?/, "")
			for (i = 3; i <= NF; i++) if ($i == "main") print $1, $2
		}' "$f"
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[[ ! -f $f ]] || awk '
		function flush(  u, s, i, j, n, m) {
			if ((" " v["types"] " ") ~ / deb / && v["enabled"] !~ /no|false/ &&
			    (" " v["components"] " ") ~ / main /) {
				n = split(v["uris"], u); m = split(v["suites"], s)
				for (i = 1; i <= n; i++) for (j = 1; j <= m; j++) print u[i], s[j]
			}
			split("", v)
		}
		/^#/      { next }
		/^[ \t]*$/ { flush(); next }
		/^[ \t]/  { gsub(/[ \t]+/, " "); v[key] = v[key] $0; next }
			  { key = tolower($0); sub(/[ \t]*:.*/, "", key)
			    val = $0; sub(/^[^:]*:[ \t]*/, "", val); gsub(/[ \t]+/, " ", val)
			    v[key] = val }
		END	  { flush() }' "$f"
	done
}

# apt_archives: the URIs that may be a Debian archive, likeliest first. A third
# party can name its suite like Debian's: the signature decides.
apt_archives() {
	{
		[[ -z ${MIRROR:-} ]] || echo "$MIRROR"
		apt_sources | grep -vE '^(cdrom|file):' |
			grep -E ' [a-z]+-updates$' | cut -d' ' -f1
		apt_sources | grep -vE '^(cdrom|file):' |
			grep -E ' (stable|oldstable|testing|unstable|[a-z]+)$' | cut -d' ' -f1
	} | awk '{ u = $0; sub(/\/+$/, "", u) } !seen[u]++ { print u }'
}

apt_codename() {
	sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# apt_private [--security] ARCH SUITE...: make $apt_opts, the options with which
# apt-get and apt-cache see just these suites, and have their lists up to date
# (to the hour). --security adds the machine's own security entries, without
# which -dev packages may not match the libraries installed.
apt_private() {
	local security='' arch uri suite dir key='' f

	if [[ $1 == --security ]]; then security=1; shift; fi
	arch=$1; shift

	command -v apt-get >/dev/null || die "no apt-get here: see BASE= in make help, and install what rig/setup lists"
	dir=$cache/apt/$arch-$(IFS=+; echo "$*")${security:+-security}
	mkdir -p "$dir"/{lists,archives}/partial
	apt_opts=(-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
		  -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
		  -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache::Archives=$dir/archives"
		  -o Dir::Cache::PkgCache= -o Dir::Cache::SrcPkgCache=
		  -o "APT::Architecture=$arch" -o "APT::Architectures=$arch"
		  -o Acquire::Languages=none -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
		  -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
	# What another architecture depends on is not what this machine has.
	if [[ $arch != "$(dpkg --print-architecture)" ]]; then
		: >"$dir/status"
		apt_opts+=(-o "Dir::State::status=$dir/status")
	fi
	[[ -z $(find "$dir/updated" -mmin -60 2>/dev/null) ]] || return 0

	for f in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
		[[ ! -f $f ]] || key=" signed-by=$f"
	done
	for uri in $(apt_archives); do
		{
			for suite; do echo "deb [arch=$arch$key] $uri $suite main"; done
			[[ -z $security ]] || apt_sources | awk -v o="arch=$arch$key" \
				-v s="$(apt_codename)-security" '$2 == s { print "deb [" o "]", $1, $2, "main" }'
		} >"$dir/sources.list"
		if apt-get "${apt_opts[@]}" -q update --error-on=any >"$log/apt-update.log" 2>&1; then
			touch "$dir/updated"
			return 0
		fi
	done
	cat "$log/apt-update.log" >&2 2>/dev/null || :
	die "found no Debian archive with $* among the machine's apt sources (MIRROR=URI names one)"
}

# deb_dir PACKAGE[:ARCH][=VERSION] [SUITE]: print a directory in the cache in
# which PACKAGE lies unpacked (dpkg -x, no dependencies); download it if needed.
# SUITE is the machine's own unless given.
deb_dir() {
	local spec=$1 suite=${2:-$(apt_codename)} pkg version='' arch dir tmp

	[[ $spec != *=* ]] || version="=${spec#*=}"
	pkg=${spec%%=*}
	arch=$(dpkg --print-architecture)
	[[ $pkg != *:* ]] || { arch=${pkg#*:}; pkg=${pkg%:*}; }
	dir=$cache/deb/$suite/${pkg}_$arch$version
	if [[ ! -d $dir ]]; then
		mkdir -p "${dir%/*}"
		tmp=$(mktemp -d "$dir.XXXXXX")
		chmod 755 "$tmp"
		apt_private "$arch" "$suite"
		if ! run_logged apt-download "downloading $pkg$version" \
			env -C "$tmp" apt-get "${apt_opts[@]}" -q download "$pkg$version"; then
			rm -rf "$tmp"
			die "cannot download $pkg$version for $arch from $suite"
		fi
		dpkg -x "$tmp"/*.deb "$tmp"
		rm "$tmp"/*.deb
		# Someone else may have been faster.
		mv -T "$tmp" "$dir" 2>/dev/null || rm -rf "$tmp"
	fi
	echo "$dir"
}
