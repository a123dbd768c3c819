# Adds edgereason's kernels to llama.cpp's CPU backend, while ggml is configured (see ../trim.cmake).
#
# They are left out, with one line that says why, where they cannot work: on other processors, with another
# version of ggml than the one whose interfaces they use, or where the compiler or its flags lack AVX2.
# llama.cpp then uses its own kernels, which give the same answers more slowly.

set(EDGEREASON_GGML_VERSION 0.25.3)
set(EDGEREASON_KERNELS backend.cpp linear.cpp attention.cpp)
list(TRANSFORM EDGEREASON_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

# Replaces a piece of llama.cpp's source once. A source that is not as expected stays as it is.
function(edgereason_replace name piece changed without)
    set(file ${PROJECT_SOURCE_DIR}/../src/${name})
    file(READ ${file} source)
    string(FIND "${source}" "${changed}" done)
    string(FIND "${source}" "${piece}" found)
    if(done EQUAL -1 AND found EQUAL -1)
        message(STATUS "edgereason kernels: ${without}, since ${file} is not as expected")
    elseif(done EQUAL -1)
        string(REPLACE "${piece}" "${changed}" source "${source}")
        file(WRITE ${file} "${source}")
    endif()
endfunction()

# llama.cpp keeps adapters out of all repacked buffers, so their matrices would stay with its slow kernels.
# Ours takes them. Its product with B also multiplies by the adapter's scale and adds the sum so far, which
# spares two nodes, and the threads' wait behind each, in every adapted linear layer.
function(edgereason_let_adapters_in)
    edgereason_replace(llama-adapter.cpp "if (ex == buft)"
        "if (ex == buft && strcmp(ggml_backend_buft_name(buft), \"EDGEREASON\") != 0)" "adapters keep llama.cpp's")
    set(product "ggml_mul_mat(ctx0, lw->a, cur)
                );
")
    edgereason_replace(llama-graph.cpp "${product}" "${product}
        if (lw->b->extra && !strcmp(ggml_backend_buft_name(ggml_backend_buffer_get_type(lw->b->buffer)), \"EDGEREASON\")) {
            memcpy(ab_cur->op_params + 1, &scale, sizeof(scale));
            ab_cur->src[2] = res;
            res = ab_cur;
            continue;
        }
" "adapters keep their own nodes for scale and sum")
endfunction()

function(edgereason_add_kernels)
    if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
        message(STATUS "edgereason kernels: left out, since they are for x86, not for ${CMAKE_SYSTEM_PROCESSOR}")
        return()
    endif()
    if(NOT GGML_VERSION_BASE VERSION_EQUAL EDGEREASON_GGML_VERSION)
        message(STATUS "edgereason kernels: left out, since they are for ggml ${EDGEREASON_GGML_VERSION}, not for ${GGML_VERSION_BASE}")
        return()
    endif()
    if(NOT TARGET ggml-cpu)
        message(STATUS "edgereason kernels: left out, since this build has no target ggml-cpu")
        return()
    endif()

    # The whole file is compiled once, with the processor's flags that the backend gets.
    get_target_property(flags ggml-cpu COMPILE_OPTIONS)
    get_target_property(folders ggml-cpu INCLUDE_DIRECTORIES)
    list(FILTER flags INCLUDE REGEX "^(-m|/arch)")
    list(FILTER folders EXCLUDE REGEX "\\$<")
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    list(APPEND folders ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/src/ggml-cpu)
    try_compile(compiles ${CMAKE_CURRENT_BINARY_DIR}/edgereason SOURCES ${EDGEREASON_KERNELS}
        CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${folders}" COMPILE_DEFINITIONS ${flags} CXX_STANDARD 17 OUTPUT_VARIABLE why)
    if(NOT compiles)
        string(REGEX MATCH "error: ?[^\n]*" why "${why}")
        message(STATUS "edgereason kernels: left out, since they do not compile here (${why})")
        return()
    endif()
    target_sources(ggml-cpu PRIVATE ${EDGEREASON_KERNELS})
    edgereason_let_adapters_in()
    message(STATUS "edgereason kernels: built in")
endfunction()

if(PROJECT_NAME STREQUAL "ggml")
    cmake_language(DEFER CALL edgereason_add_kernels)
endif()
