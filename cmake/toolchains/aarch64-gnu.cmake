# Debian's cross compiler for 64-bit ARM (g++-aarch64-linux-gnu); programs run under qemu (qemu-user):
#   qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu max build/arm/lowbit_native_tests simd_        all NEON kernels
#   ... -cpu neoverse-n1: dot products without i8mm;  -cpu cortex-a72: neither, portable kernels
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(LOWBIT_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
set(CMAKE_CROSSCOMPILING_EMULATOR "${LOWBIT_QEMU};-L;/usr/aarch64-linux-gnu")
