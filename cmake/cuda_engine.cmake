# Targets _cuda and _cuda_emulated, both of BSE_CUDA_SOURCES and the bindings in csrc/python.

# architectures: what _cuda.architectures says; a list as CMAKE_CUDA_ARCHITECTURES takes it, or a word.
function(bse_add_cuda_module name architectures)
  list(JOIN architectures ", " architectures)
  pybind11_add_module(${name}
    csrc/python/cuda/module.cpp
    csrc/python/cuda/register_bank.cpp
    csrc/python/cuda/register_graph.cpp
    csrc/python/cuda/register_partition.cpp
    csrc/python/cuda/register_walk.cpp
  )
  target_include_directories(${name} PRIVATE csrc)
  target_compile_definitions(${name} PRIVATE BSE_MODULE_NAME=${name} BSE_CUDA_ARCHITECTURES="${architectures}")
  target_compile_options(${name} PRIVATE -Wall -Wextra)
endfunction()

# Which architectures: those of CMAKE_CUDA_ARCHITECTURES if given, else with AUTO the GPU at hand, with ON all. AUTO builds
# no CUDA engine where nvcc or a GPU is missing: all architectures take minutes, and only a wheel for others needs them.
set(BSE_BUILDS_CUDA OFF)
if(NOT BSE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  find_program(BSE_NVIDIA_SMI nvidia-smi)
  if(BSE_NVIDIA_SMI)
    execute_process(COMMAND ${BSE_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE BSE_GPUS RESULT_VARIABLE BSE_SMI_RESULT ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(BSE_SMI_RESULT EQUAL 0 AND BSE_GPUS)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" BSE_GPUS "${BSE_GPUS}")
      list(REMOVE_DUPLICATES BSE_GPUS)
      string(REPLACE "." "" BSE_GPUS "${BSE_GPUS}")
    else()
      set(BSE_GPUS "")
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER AND (BSE_CUDA STREQUAL "ON" OR BSE_GPUS OR DEFINED CMAKE_CUDA_ARCHITECTURES))
    set(BSE_BUILDS_CUDA ON)
  elseif(BSE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "BSE_CUDA=ON, but no CUDA compiler was found: put nvcc on the PATH or set CUDACXX")
  elseif(CMAKE_CUDA_COMPILER)
    message(NOTICE "CUDA engine: left out, as this machine has no GPU. Build it for all with BSE_CUDA=ON")
  else()
    message(NOTICE "CUDA engine: left out, as no CUDA compiler was found")
  endif()
endif()

if(BSE_BUILDS_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)  # else CMake would take the compiler's default: one old architecture
    if(BSE_CUDA STREQUAL "AUTO")
      list(TRANSFORM BSE_GPUS APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
    else()
      set(CMAKE_CUDA_ARCHITECTURES OFF)
      set(BSE_WANTS_ALL_ARCHITECTURES ON)
    endif()
  endif()
  enable_language(CUDA)
  if(BSE_WANTS_ALL_ARCHITECTURES)
    # Native code for what is in use, and PTX of the newest for what is to come.
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90-real)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 100-real 120)
    else()
      list(APPEND CMAKE_CUDA_ARCHITECTURES 90-virtual)
    endif()
  endif()
  message(NOTICE "CUDA engine: ${CMAKE_CUDA_COMPILER} for ${CMAKE_CUDA_ARCHITECTURES}; this takes minutes")
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  add_library(bse_cuda STATIC ${BSE_CUDA_SOURCES})
  target_include_directories(bse_cuda PRIVATE csrc)
  # Rounding is defined: no contraction beyond the fma that the source writes.
  target_compile_options(bse_cuda PRIVATE --fmad=false -Xcompiler=-Wall,-Wextra,-fvisibility=hidden -Xptxas=-v)
  if(BSE_WERROR)
    target_compile_options(bse_cuda PRIVATE -Werror=all-warnings)
  endif()
  set(built_for ${CMAKE_CUDA_ARCHITECTURES})
  if(built_for STREQUAL "native" AND CMAKE_CUDA_ARCHITECTURES_NATIVE)  # CMake 3.24 and later say which that is
    set(built_for ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
  endif()
  bse_add_cuda_module(_cuda "${built_for}")
  target_link_libraries(_cuda PRIVATE bse_cuda)
  install(TARGETS _cuda LIBRARY DESTINATION batchsampler_ext)
endif()

if(BSE_EMULATED_CUDA)
  # A wrapper for each file: a source has one language in CMake.
  foreach(source ${BSE_CUDA_SOURCES})
    get_filename_component(stem ${source} NAME_WE)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${stem}.cpp)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${CMAKE_CURRENT_SOURCE_DIR}/${source}\"\n")
    list(APPEND BSE_EMULATED_SOURCES ${wrapper})
  endforeach()
  add_library(bse_cuda_emulated STATIC ${BSE_EMULATED_SOURCES} tests/emulator/runtime.cpp)
  target_include_directories(bse_cuda_emulated PRIVATE csrc tests)
  target_link_libraries(bse_cuda_emulated PUBLIC Threads::Threads)
  target_compile_options(bse_cuda_emulated PRIVATE -Wall -Wextra -ffp-contract=off -fvisibility=hidden)
  if(BSE_WERROR)
    target_compile_options(bse_cuda_emulated PRIVATE -Werror)
  endif()
  bse_add_cuda_module(_cuda_emulated "emulated")
  target_link_libraries(_cuda_emulated PRIVATE bse_cuda_emulated)
  install(TARGETS _cuda_emulated LIBRARY DESTINATION batchsampler_ext)
endif()
