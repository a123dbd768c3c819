# Read by CMake at the start of llama-cpp-python's build (-DCMAKE_PROJECT_INCLUDE=…, see the Makefile).
# The package always builds llama.cpp's helper library for its command-line tools; edgereason speaks to
# libllama alone. A normal variable shadows the cache entry that the package forces on (CMP0126).
set(LLAMA_BUILD_COMMON OFF)

include(${CMAKE_CURRENT_LIST_DIR}/kernels/kernels.cmake)
