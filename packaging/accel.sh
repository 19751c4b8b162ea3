# shellcheck shell=bash
# Which GPU the engine is built for: found on this machine, or chosen. Sourced, never run.

# Wheels of llama-cpp-python for CUDA, one directory a CUDA version
engine_index=${LLMSVC_ENGINE_INDEX:-https://abetlen.github.io/llama-cpp-python/whl}

# detect_accel ROOT: cuda, rocm, vulkan or cpu, by the display controllers of PCI and the drivers' nodes. An Intel GPU
# is built into most processors and no faster than they are: it counts only where --accel vulkan asks for it.
detect_accel() {
    local root=${1%/} device class vendor amd=''
    if [ -e "$root/dev/nvidiactl" ] || [ -e "$root/dev/dxg" ] || [ -e "$root/proc/driver/nvidia/version" ]; then
        echo cuda
        return
    fi
    for device in "$root"/sys/bus/pci/devices/*; do
        [ -e "$device/vendor" ] || continue
        read -r class <"$device/class"
        read -r vendor <"$device/vendor"
        case $class/$vendor in
        0x03*/0x10de) echo cuda && return ;;
        0x03*/0x1002) amd=vulkan ;;
        esac
    done
    if [ -n "$amd" ] && [ -e "$root/dev/kfd" ]; then amd=rocm; fi
    echo "${amd:-cpu}"
}

# gpu_words ACCEL: what was found, for people
gpu_words() {
    case $1 in
    cuda) echo "an NVIDIA GPU" ;;
    rocm | vulkan) echo "an AMD GPU" ;;
    *) echo "no GPU" ;;
    esac
}

# choose_accel: sets $accel to what the engine is, or is to be, built for, by the options of install.sh
choose_accel() {
    local found kind
    found=$(detect_accel /)
    if [ "$engine" = native ]; then
        [ "$found" = cpu ] ||
            step "this machine has $(gpu_words "$found"), which xllamacpp from PyPI leaves unused: docs/engines.md tells where its wheels for GPUs are"
        # any wheelhouse has it
        accel=native
        [ -z "$wheelhouse" ] || accel=$(told "$wheelhouse" accel)
    elif [ -n "$wheelhouse" ]; then
        kind=$(told "$wheelhouse" accel)
        [ "$kind" != native ] || die "$wheelhouse has no llama-cpp-python" "packaging/install.sh --engine native"
        if [ "$accel" = auto ]; then
            [ "$found" = "$kind" ] || step "this machine has $(gpu_words "$found"); the engine of $wheelhouse is for $kind"
        elif [ "$accel" != "$kind" ]; then
            die "the engine of $wheelhouse is for $kind, not for $accel" "packaging/wheelhouse --accel $accel DIR makes another one"
        fi
        accel=$kind
    elif [ "$accel" = auto ]; then
        accel=$found
        [ "$accel" = cpu ] || step "this machine has $(gpu_words "$accel"): --accel $accel (--accel cpu leaves it unused)"
    fi
}

# prebuilt_engine ACCEL VERSION DIR: puts the wheel of exactly this version into DIR, if the index has one for a CUDA that
# is installed here and that the driver can run. pip must be in PATH. Status 1: there is none.
prebuilt_engine() {
    local cuda version
    [ "$1" = cuda ] || return 1
    cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\)\.\([0-9]*\).*/\1\2/p' | head -n 1)
    # a driver runs what was built for an older CUDA, whose libraries the wheel does not bring along
    for version in 125 124 123 122 121; do
        if [ -z "$cuda" ] || [ "$version" -gt "$cuda" ]; then continue; fi
        ldconfig -p | grep -q "libcudart\.so\.${version%?} " || continue
        if pip download --quiet --no-deps --only-binary :all: --no-cache-dir -d "$3" \
            --index-url "$engine_index/cu$version" "llama-cpp-python==$2" >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

# compile_for ACCEL VERSION: sets $CMAKE_ARGS, once all that compiling takes is there and somebody agreed to it ($yes)
compile_for() {
    local tool packages
    PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin # where NVIDIA's own packages put it
    case $1 in
    cuda) export CMAKE_ARGS=-DGGML_CUDA=on && tool=nvcc packages=nvidia-cuda-toolkit ;;
    rocm) export CMAKE_ARGS=-DGGML_HIP=on && tool=hipcc packages="hipcc libhipblas-dev librocblas-dev" ;;
    vulkan) export CMAKE_ARGS=-DGGML_VULKAN=on && tool=glslc packages="glslc libvulkan-dev" ;;
    esac
    step "there is no wheel of llama-cpp-python $2 for $1: it must be compiled here, once; that takes"
    step "  $tool ($packages), 3 GB of disk and memory, and about 20 minutes on 4 cores"
    command -v "$tool" >/dev/null || die "$tool is not installed" \
        "apt-get install $packages, then again; or --accel cpu, which leaves the GPU unused"
    [ -z "${yes:-}" ] || return 0
    if [ ! -t 0 ]; then die "there is no terminal to ask on" "--yes compiles it, --accel cpu leaves the GPU unused"; fi
    local answer
    read -r -p "Compile it now? [y/N] " answer
    [[ $answer = [yY]* ]] || die "nothing was changed" "--accel cpu leaves the GPU unused"
}
