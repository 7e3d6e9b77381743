# shellcheck shell=bash
# What building and booting share; source it after lib.sh.
#
# Two variables say which kernel is meant; both may come from the environment:
#
#	GMEM_LINUX	the source tree (default: build/linux, the composed one)
#	GMEM_OUT	where its outputs go (default: build), so that a second tree can
#			be built and tested beside the first:
#			$GMEM_OUT/ARCH-FLAVOUR		kernel
#			$GMEM_OUT/ARCH-selftests	selftests, statically linked
#			$GMEM_OUT/ARCH-headers		the tree's uapi headers
#
# use_base points both at the unpatched base: build/base-linux, build/base.

# shellcheck disable=SC2154	# build and linux come from lib.sh
{
GMEM_LINUX=${GMEM_LINUX:-$linux}
GMEM_OUT=${GMEM_OUT:-$build}
}
export GMEM_LINUX GMEM_OUT

use_base() {
	GMEM_LINUX=$build/base-linux
	GMEM_OUT=$build/base
}

# set_arch ARCH: sets arch, karch (as arch/ in the tree has it), cross, image.
# shellcheck disable=SC2034	# used by those who source this
set_arch() {
	arch=$1
	case $arch in
	x86_64)	karch=x86 image=arch/x86/boot/bzImage target=bzImage ;;
	arm64)	karch=arm64 image=arch/arm64/boot/Image target=Image ;;
	*)	die "unknown architecture '$arch': x86_64 or arm64" ;;
	esac
	if [[ $arch == x86_64 ]]; then cross_for=x86_64 cross=x86_64-linux-gnu-
	else cross_for=aarch64 cross=aarch64-linux-gnu-; fi
	[[ $(uname -m) != "$cross_for" ]] || cross=
}

# lock FILE: one at a time; held until this shell exits.
lock() {
	local fd

	mkdir -p "$(dirname "$1")"
	exec {fd}>"$1"
	flock -n "$fd" || { say "waiting for $1"; flock "$fd"; }
}
