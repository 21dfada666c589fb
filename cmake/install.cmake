# Filled by the packaging step: headers, libraries, pkg-config and CMake package.
