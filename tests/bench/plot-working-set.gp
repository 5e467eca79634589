# SPDX-License-Identifier: MIT
# usage: gnuplot -e "csv='working-set-raw.csv'; svg='working-set-plot.svg'" plot-working-set.gp
# Every run: how long until the work was done.
set terminal svg size 900,600 font "sans,12"
set output svg
set datafile separator ","
set ylabel "seconds until the work is done"
set yrange [0:*]
set grid ytics
set key top right noenhanced
modes = "plain replay fill fill-replay"
place(workload, mode) = (workload eq "linked" ? 0 : 5) + (mode eq "plain" ? 0 : mode eq "replay" ? 1 : mode eq "fill" ? 2 : 3)
set xrange [-1:9]
set xtics ("linked client" 1.5, "userfaultfd" 6.5)
plot for [m=1:4] csv using ((strcol(2) eq word(modes, m)) ? place(strcol(1), strcol(2)) + rand(0) * 0.5 - 0.25 : NaN):($4 / 1000000) \
        with points pointtype 7 pointsize 0.6 title word(modes, m)
