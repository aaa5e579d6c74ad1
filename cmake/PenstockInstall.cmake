# Where `cmake --install` puts what was built.

if(TARGET penstock)
    install(TARGETS penstock RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
if(TARGET penstock_shared)
    install(TARGETS penstock_shared LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
    install(FILES "${PENSTOCK_PUBLIC_HEADER}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/penstock")
    configure_file("${CMAKE_SOURCE_DIR}/cmake/penstock.pc.in" "${CMAKE_BINARY_DIR}/penstock.pc" @ONLY)
    install(FILES "${CMAKE_BINARY_DIR}/penstock.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endif()
if(TARGET penstock_cuda)
    install(TARGETS penstock_cuda LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/penstock")
endif()
install(FILES "${CMAKE_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

file(GLOB man_pages CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/deploy/man/*.1")
if(man_pages)
    install(FILES ${man_pages} DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
endif()

# deploy/completion/penstock.bash, _penstock (zsh), penstock.fish
set(completion "${CMAKE_SOURCE_DIR}/deploy/completion")
if(EXISTS "${completion}/penstock.bash")
    install(FILES "${completion}/penstock.bash" DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions"
        RENAME penstock)
endif()
if(EXISTS "${completion}/_penstock")
    install(FILES "${completion}/_penstock" DESTINATION "${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions")
endif()
if(EXISTS "${completion}/penstock.fish")
    install(FILES "${completion}/penstock.fish" DESTINATION "${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d")
endif()
