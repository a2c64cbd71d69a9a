#!/bin/sh
# What a Jetson has: JetPack, CUDA, TensorRT, power mode, clocks, and the agent. Changes nothing. Exit code 1 when something is missing.
set -u
status=0

have() { printf 'ok    %s: %s\n' "$1" "$2"; }
lack() { printf 'FAIL  %s: %s\n' "$1" "$2"; status=1; }
note() { printf 'note  %s: %s\n' "$1" "$2"; }

if [ -r /etc/nv_tegra_release ]; then have "L4T" "$(head -n 1 /etc/nv_tegra_release | cut -c1-60)"
else lack "L4T" "/etc/nv_tegra_release is missing: this is no Jetson, or a container without its files"; fi

libc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d ' ' -f 2)
case "$libc" in
    2.2[7-9] | 2.[3-9]*) have "glibc" "$libc" ;;
    *) lack "glibc" "${libc:-unknown}; 2.27 or newer is needed (JetPack 4.4)" ;;
esac

cuda=$(find /usr/local -maxdepth 4 -name 'libcudart.so.*' 2>/dev/null | sort | tail -n 1)
if [ -n "$cuda" ]; then have "CUDA" "$cuda"; else note "CUDA" "no libcudart below /usr/local; models run on the CPU"; fi
if [ -e /usr/lib/aarch64-linux-gnu/libnvinfer.so.8 ] || [ -e /usr/lib/aarch64-linux-gnu/libnvinfer.so.10 ]; then have "TensorRT" "installed"
else note "TensorRT" "libnvinfer.so.8 or .10 not found; ONNX Runtime would use CUDA alone"; fi

for user in ggc_user gg_component; do
    if id "$user" >/dev/null 2>&1; then
        case " $(id -nG "$user") " in
            *" video "*) have "user $user" "in group video" ;;
            *) note "user $user" "not in group video, which GPU access needs: usermod -aG video $user" ;;
        esac
    fi
done

if command -v nvpmodel >/dev/null 2>&1; then have "power mode" "$(nvpmodel -q 2>/dev/null | tr '\n' ' ' | cut -c1-60)"
else note "power mode" "nvpmodel is missing"; fi
for cpu in /sys/devices/system/cpu/cpu0/cpufreq; do
    if [ -r "$cpu/scaling_cur_freq" ]; then
        have "CPU clock" "$(cat "$cpu/scaling_cur_freq") of $(cat "$cpu/cpuinfo_max_freq") kHz"
    fi
done

agent=$(ls -d /greengrass/v2/work/linewatch.EdgeAgent/current /var/lib/greengrass/work/linewatch.EdgeAgent/current 2>/dev/null | head -n 1)
if [ -n "$agent" ]; then
    if "$agent/bin/python" -P -m linewatch doctor; then have "agent" "$agent"; else lack "agent" "$agent does not pass linewatch doctor"; fi
else lack "agent" "the component linewatch.EdgeAgent is not installed"; fi
exit "$status"
