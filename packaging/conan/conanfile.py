# SPDX-License-Identifier: MIT
# A recipe for Conan 2 that packages this checkout:   conan create packaging/conan
# Not tried yet, see packaging/README.md.
import os

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class Ddl(ConanFile):
    name = "ddl"
    version = "0.1.0"
    license = "MIT"
    description = "The delta rule in C++: Deep Delta Learning and DeltaNet on Eigen, header-only"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"io": [True, False]}
    default_options = {"io": True}

    def requirements(self):
        self.requires("eigen/3.4.0", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/3.11.3", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def export_sources(self):
        project = os.path.join(self.recipe_folder, "..", "..")
        for pattern in ("CMakeLists.txt", "LICENSE", "README.md", "cmake/*", "docs/*", "include/*"):
            copy(self, pattern, project, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for name in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables["DDL_BUILD_" + name] = False
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_id(self):
        self.info.clear()

    def package_info(self):
        # ddl's own CMake package defines ddl::ddl and ddl::io.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "ddl")]
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
