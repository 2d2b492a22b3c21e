# shellcheck shell=bash
# Which build of the stack a script uses, with CUDA or for the CPU, and the folder where it lives. Sourced, in the checkout's root.
#
#   choose_build     sets BUILD (cpu or gpu: SPO_DEVICE, else what the machine is) and VENV, the folder of that build
#
# One build a folder, never a mixture: .venv is of the build that was installed into it first, the other one is in .venv-cpu or
# .venv-gpu. The file BUILD_MARK in a folder says which build it has.
BUILD_MARK=.spo_rlhf_build

machine_build() {
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then echo gpu; else echo cpu; fi
}

# has_build FOLDER: a build is installed there, or its installation was broken off.
has_build() { [ -f "$1/$BUILD_MARK" ] || [ -f "$1/.spo_rlhf_installed" ]; }

# build_in FOLDER: the build that is installed there; that of the machine where nothing, or something of the user's own, is.
build_in() {
    if [ -f "$1/$BUILD_MARK" ]; then
        cat "$1/$BUILD_MARK"
    elif [ -f "$1/.spo_rlhf_installed" ]; then
        echo cpu # installed before there was another
    else
        machine_build
    fi
}

choose_build() {
    case ${SPO_DEVICE:-} in
        '') BUILD=$(machine_build) ;;
        cpu | gpu) BUILD=$SPO_DEVICE ;;
        *) echo "SPO_DEVICE=$SPO_DEVICE: give cpu or gpu" >&2; return 2 ;;
    esac
    VENV=.venv
    [ "$(build_in .venv)" = "$BUILD" ] || VENV=.venv-$BUILD
    export VENV
}
